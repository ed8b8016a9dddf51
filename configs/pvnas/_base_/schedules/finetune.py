# AdamW for a network whose weights are inherited; what is new, its head, learns ten times
# as fast. Warm-up and cosine are as long as train_cfg.max_epochs.
train_cfg = dict(type="EpochBasedTrainLoop", val_begin=1, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=20),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys=dict(cls_head=dict(lr_mult=10)),
    ),
)
param_scheduler = dict(
    type="WarmupCosineLR", by_epoch=False, warmup=1 / 12, start_factor=0.1
)
