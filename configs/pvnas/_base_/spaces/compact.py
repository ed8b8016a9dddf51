# Shallow, for small frames and few clips: the first stage stays at the stem's resolution,
# where motion is still there to be seen, and may look at three or five frames.
_first = ["mb_t1_k3_e2", "mb3d_t{3,5}_k3_e1", "rb_t{1,3,5}_k3_e0.5", "skip"]
_later = [
    "mb_t1_k3_e3",
    "mb3d_t{3,5}_k3_e2",
    "ts_t3_k3_e3",
    "rb_t{1,3,5}_k3_e0.5",
    "skip",
]
space = dict(
    name="compact",
    stem=dict(channels=24),
    head_channels=256,
    stages=[
        dict(out_channels=32, num_layers=2, candidates=_first),
        dict(out_channels=64, num_layers=2, spatial_stride=2, candidates=_later),
        dict(out_channels=128, num_layers=2, spatial_stride=2, candidates=_later),
    ],
)
