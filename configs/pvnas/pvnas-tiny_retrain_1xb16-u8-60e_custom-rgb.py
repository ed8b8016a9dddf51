# The data are yours: see _base_/data/custom.py. The network is the one your search
# found, with --cfg-options model.backbone.genotype=WORK_DIR/search/genotype.json
_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/custom.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-tiny.json"),
    cls_head=dict(in_channels=64, num_classes=_base_.num_classes),
)
train_cfg = dict(max_epochs=60)
param_scheduler = dict(start_factor=0.1)
