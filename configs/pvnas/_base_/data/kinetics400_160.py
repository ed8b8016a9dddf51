# As kinetics400.py, at 160x160.
_base_ = "kinetics400.py"

train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(type="Resize", scale=(-1, 182)),
    dict(type="RandomResizedCrop"),
    dict(type="Resize", scale=(160, 160), keep_ratio=False),
    *_base_.train_pipeline[6:],
]
val_pipeline = [
    *_base_.val_pipeline[:3],
    dict(type="Resize", scale=(-1, 182)),
    dict(type="CenterCrop", crop_size=160),
    *_base_.val_pipeline[5:],
]
test_pipeline = [
    *_base_.test_pipeline[:3],
    dict(type="Resize", scale=(-1, 160)),
    dict(type="ThreeCrop", crop_size=160),
    *_base_.test_pipeline[5:],
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
