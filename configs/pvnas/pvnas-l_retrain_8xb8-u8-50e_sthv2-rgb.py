_base_ = [
    "_base_/models/retrain_lite2.py",
    "_base_/data/sthv2.py",
    "_base_/schedules/finetune.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-l.json"),
    cls_head=dict(num_classes=_base_.num_classes),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=50, val_interval=5)
auto_scale_lr = dict(enable=False, base_batch_size=64)
