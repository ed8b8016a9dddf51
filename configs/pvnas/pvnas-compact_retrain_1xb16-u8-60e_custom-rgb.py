# The data are yours: see _base_/data/custom.py. The network is the one your search
# found, with --cfg-options model.backbone.genotype=WORK_DIR/search/genotype.json
_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/custom_48.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

# The recipe of benchmarks/real_clips.py.
model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-compact.json"),
    cls_head=dict(in_channels=256, num_classes=_base_.num_classes, dropout_ratio=0.5),
)
train_cfg = dict(max_epochs=60)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4))
param_scheduler = dict(warmup=0.1, start_factor=0.1)
