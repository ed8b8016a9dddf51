# One iteration is a weights step and, after a cycle's warm-up, an alpha step.
# A config sets train_cfg.max_epochs, train_cfg.input_shape and, for a budget,
# train_cfg.cost, e.g. dict(kind='flops', budget=2e9). Where clips are so few that the
# epochs would be less than min_steps, there are more epochs.
train_cfg = dict(type="SearchLoop", min_steps=400)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    constructor="SearchOptimWrapperConstructor",
    weights=dict(
        optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=20),
    ),
    alphas=dict(optimizer=dict(type="Adam", lr="auto", betas=(0.5, 0.999))),
)

# LRDiversityHook alone sets the learning rates.
param_scheduler = None
custom_hooks = [
    dict(type="LRDiversityHook", mode="diversity", num_cycles=3),
    dict(type="SearchHistoryHook", interval=10),
    dict(type="GenotypePictureHook"),
]
