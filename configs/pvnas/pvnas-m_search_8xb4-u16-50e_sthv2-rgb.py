_base_ = [
    "_base_/spaces/medium.py",
    "_base_/models/search.py",
    "_base_/data/sthv2_u16.py",
    "_base_/schedules/search.py",
    "_base_/search_runtime.py",
]

model = dict(
    backbone=dict(space=_base_.space),
    cls_head=dict(
        in_channels=_base_.space.head_channels, num_classes=_base_.num_classes
    ),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(weights=dict(optimizer=dict(lr=0.025)))
train_cfg = dict(
    max_epochs=50, input_shape=(3, 16, 224, 224), cost=dict(kind="flops", budget=33e9)
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
