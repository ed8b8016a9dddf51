# As custom.py, at 48x48.
_base_ = "custom.py"

train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(type="Resize", scale=(-1, 54)),
    _base_.train_pipeline[4],
    dict(type="Resize", scale=(48, 48), keep_ratio=False),
    *_base_.train_pipeline[6:],
]
val_pipeline = [
    *_base_.val_pipeline[:3],
    dict(type="Resize", scale=(-1, 54)),
    dict(type="CenterCrop", crop_size=48),
    *_base_.val_pipeline[5:],
]
test_pipeline = val_pipeline

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
