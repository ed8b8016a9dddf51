_base_ = [
    "_base_/models/retrain.py",
    "_base_/data/motion_clips_20.py",
    "_base_/schedules/retrain.py",
    "_base_/default_runtime.py",
]

# That of your own search: --cfg-options model.backbone.genotype=PATH
model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/pvnas-tiny.json"),
    cls_head=dict(in_channels=64, num_classes=_base_.num_classes),
    data_preprocessor=dict(
        blending=dict(type="TimeReversalBlending", opposites=_base_.opposites)
    ),
)
# Each of them forwards and backwards.
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type="MuonAdamW", lr=0.012, muon_lr=0.06, weight_decay=0.01
    )
)
param_scheduler = dict(warmup=0.0)
