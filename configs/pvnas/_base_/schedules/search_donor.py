# A search from pretrained weights, which are tuned first; weights learn as in
# finetune.py. At the end the finalists are trained apart for race_steps, and the best of
# them is the result. A config sets what search.py says, and the budget.
_base_ = "search.py"

train_cfg = dict(
    min_steps=200, num_ranked=8, race_steps=100, donor=dict(tune_steps=150)
)
optim_wrapper = dict(
    weights=dict(
        optimizer=dict(_delete_=True, type="AdamW", lr=5e-4, weight_decay=0.05),
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys=dict(cls_head=dict(lr_mult=10)),
    ),
)
# Alphas start from what single blocks are worth, and refine it.
custom_hooks = [
    dict(type="LRDiversityHook", num_cycles=2, diversity_start=0.8, diversity_end=0.6),
    *_base_.custom_hooks[1:],
]
