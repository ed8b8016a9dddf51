# As custom.py, at 160x160, for GPUs.
_base_ = "custom.py"

train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(type="Resize", scale=(-1, 182)),
    _base_.train_pipeline[4],
    dict(type="Resize", scale=(160, 160), keep_ratio=False),
    *_base_.train_pipeline[6:],
]
val_pipeline = [
    *_base_.val_pipeline[:3],
    dict(type="Resize", scale=(-1, 182)),
    dict(type="CenterCrop", crop_size=160),
    *_base_.val_pipeline[5:],
]
test_pipeline = val_pipeline

train_dataloader = dict(
    batch_size=8, num_workers=8, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=8, num_workers=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
