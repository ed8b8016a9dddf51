# The skeleton of ResNet-50. Each layer has the donor's block (rb_t1, e0.25), with a
# temporal shift or with a temporal kernel in its first convolution, at its width, a half
# and a quarter; a larger kernel; and may leave.
_candidates = [
    "{rb_t1,rs_t3,rb_t3,rb_t5}_k3_e{0.25,0.125,0.0625}",
    "{rb_t1,rs_t3}_k5_e0.125",
    "skip",
]
space = dict(
    name="resnet50",
    stem=dict(channels=64, kernel=7, pool=3),
    head_channels=None,
    stages=[
        dict(out_channels=256, num_layers=3, candidates=_candidates),
        dict(out_channels=512, num_layers=4, spatial_stride=2, candidates=_candidates),
        dict(out_channels=1024, num_layers=6, spatial_stride=2, candidates=_candidates),
        dict(out_channels=2048, num_layers=3, spatial_stride=2, candidates=_candidates),
    ],
)
# ImageNet weights, for model.backbone.init_cfg.
donor = dict(type="InheritFrom", checkpoint="torchvision://resnet50")
