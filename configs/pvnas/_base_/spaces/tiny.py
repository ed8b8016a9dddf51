# Small enough to train every network of it: 4 ** 4 = 256. Each layer may buy width, look
# at other frames, by a kernel of its own or by one joint with space, or leave, where
# nothing changes.
_wide = ["mb_t1_k3_e{1,2}", "{mb,mb3d}_t3_k3_e2"]
_deep = ["mb_t1_k3_e2", "{mb,mb3d}_t3_k3_e2", "skip"]
space = dict(
    name="tiny",
    stem=dict(channels=16),
    head_channels=64,
    stages=[
        dict(out_channels=24, num_layers=1, spatial_stride=2, candidates=_wide),
        dict(out_channels=24, num_layers=1, candidates=_deep),
        dict(out_channels=40, num_layers=1, candidates=_wide),
        dict(out_channels=40, num_layers=1, candidates=_deep),
    ],
)
