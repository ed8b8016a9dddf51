# For thousands of clips and GPUs. The data are yours: see _base_/data/custom.py.
_base_ = [
    "_base_/spaces/light.py",
    "_base_/models/search.py",
    "_base_/data/custom_160.py",
    "_base_/schedules/search.py",
    "_base_/search_runtime.py",
]

model = dict(
    backbone=dict(space=_base_.space),
    cls_head=dict(
        in_channels=_base_.space.head_channels, num_classes=_base_.num_classes
    ),
)
train_cfg = dict(
    max_epochs=100, input_shape=(3, 8, 160, 160), cost=dict(kind="flops", budget=2e9)
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
