_base_ = [
    "_base_/spaces/tiny.py",
    "_base_/models/search.py",
    "_base_/data/motion_clips_20.py",
    "_base_/schedules/search.py",
    "_base_/search_runtime.py",
]

model = dict(
    backbone=dict(space=_base_.space),
    cls_head=dict(
        in_channels=_base_.space.head_channels, num_classes=_base_.num_classes
    ),
    data_preprocessor=dict(
        blending=dict(type="TimeReversalBlending", opposites=_base_.opposites)
    ),
)
# Each of them forwards and backwards.
train_dataloader = dict(batch_size=8)
train_cfg = dict(
    max_epochs=4,
    min_steps=600,
    input_shape=(3, 6, 20, 20),
    num_ranked=8,
    alpha_weight=3.0,
    largest_every=2,
    relaxations=dict(warmup="gumbel_st"),
)
# A short run: three cycles, and a plan for D that p can follow in so few steps. A restart
# keeps some of what was learnt (uniform again, the weights would forget it). The three
# genotypes differ in half of their four layers.
optim_wrapper = dict(
    weights=dict(
        optimizer=dict(
            _delete_=True, type="MuonAdamW", lr=0.006, muon_lr=0.03, weight_decay=0.01
        )
    )
)
custom_hooks = [
    dict(
        type="LRDiversityHook",
        num_cycles=3,
        warmup=0.5,
        weights_lr_floor=0.1,
        diversity_start=0.6,
        diversity_end=0.45,
        min_distance=0.5,
        restart_diversity_step=0.25,
    ),
    dict(type="SearchHistoryHook", interval=10),
    dict(type="GenotypePictureHook"),
]
