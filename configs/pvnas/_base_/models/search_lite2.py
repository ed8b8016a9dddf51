# The supernet of `lite2`, from ImageNet weights; clips as EfficientNet-Lite was trained.
_base_ = ["../spaces/lite2.py", "search.py"]

model = dict(
    backbone=dict(space=_base_.space, init_cfg=_base_.donor),
    cls_head=dict(in_channels=_base_.space.head_channels, dropout_ratio=0.5),
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
)
