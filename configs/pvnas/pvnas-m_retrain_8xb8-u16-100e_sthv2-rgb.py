_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/sthv2_u16.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-m.json"),
    cls_head=dict(in_channels=1024, num_classes=_base_.num_classes, dropout_ratio=0.5),
)
train_cfg = dict(max_epochs=100, val_interval=5)
auto_scale_lr = dict(enable=False, base_batch_size=64)
