_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/motion_clips.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

# That of your own search: --cfg-options model.backbone.genotype=PATH
model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/mb_t1_tiny.json"),
    cls_head=dict(in_channels=64, num_classes=_base_.num_classes),
)
train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.1,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=1,
        end=12,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
