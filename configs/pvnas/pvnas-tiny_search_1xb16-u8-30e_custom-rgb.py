# The data are yours: see _base_/data/custom.py.
_base_ = [
    "_base_/spaces/tiny.py",
    "_base_/models/search.py",
    "_base_/data/custom.py",
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
    max_epochs=30,
    min_steps=600,
    input_shape=(3, 8, 112, 112),
    num_ranked=8,
    largest_every=2,
)
