_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/ucf101.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-s.json"),
    cls_head=dict(in_channels=768, num_classes=_base_.num_classes, dropout_ratio=0.5),
)
train_cfg = dict(max_epochs=200, val_interval=5)
auto_scale_lr = dict(enable=False, base_batch_size=64)
