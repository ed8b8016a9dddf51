_base_ = [
    "_base_/models/search_lite0.py",
    "_base_/data/ucf101.py",
    "_base_/schedules/search_donor.py",
    "_base_/search_runtime.py",
]

model = dict(cls_head=dict(num_classes=_base_.num_classes))
train_dataloader = dict(batch_size=8)
train_cfg = dict(
    max_epochs=20, input_shape=(3, 8, 224, 224), cost=dict(kind="flops", budget=1e9)
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
