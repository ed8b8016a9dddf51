_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/kinetics400.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-l.json"),
    cls_head=dict(in_channels=768, num_classes=_base_.num_classes, dropout_ratio=0.5),
)
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=200, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=0.2))
auto_scale_lr = dict(enable=False, base_batch_size=128)
