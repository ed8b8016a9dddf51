# Small enough to train every network of it: 4 * 5 * 4 * 5 = 400. Each layer may buy
# width, a larger window, or a look at other frames; or leave, where nothing changes.
_blocks = ["mb_t1_k3_e2", "mb_t1_k5_e2", "mb_t1_k3_e4", "mb_t5_k3_e2"]
space = dict(
    name="tiny",
    stem_channels=16,
    head_channels=64,
    stages=[
        dict(
            out_channels=24,
            num_layers=2,
            spatial_stride=2,
            temporal_stride=1,
            candidates=[*_blocks, "skip"],
        ),
        dict(
            out_channels=40,
            num_layers=2,
            spatial_stride=2,
            temporal_stride=1,
            candidates=[*_blocks, "skip"],
        ),
    ],
)
