_base_ = [
    "_base_/models/search_resnet50.py",
    "_base_/data/kinetics400_16x4x1.py",
    "_base_/schedules/search_donor.py",
    "_base_/search_runtime.py",
]

model = dict(cls_head=dict(num_classes=_base_.num_classes))
train_dataloader = dict(batch_size=4)
train_cfg = dict(
    max_epochs=10,
    input_shape=(3, 16, 224, 224),
    cost=dict(kind="flops", budget=33e9),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
