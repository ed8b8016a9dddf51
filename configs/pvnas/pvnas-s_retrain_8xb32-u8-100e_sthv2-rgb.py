_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/sthv2_160.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-s.json"),
    cls_head=dict(in_channels=768, num_classes=_base_.num_classes),
)
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_epochs=100, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=0.4, weight_decay=5e-5))
auto_scale_lr = dict(enable=False, base_batch_size=256)
