# SGD with a linear warm-up and one cosine, as long as train_cfg.max_epochs.
train_cfg = dict(type="EpochBasedTrainLoop", val_begin=1, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=20),
)
param_scheduler = dict(type="WarmupCosineLR", by_epoch=False)
