# The supernet of `resnet50`. Its ImageNet weights are yours to provide: torchvision
# downloads them, where it is installed, or
# --cfg-options model.backbone.init_cfg.checkpoint=PATH names a file of a ResNet-50 of
# torchvision, timm or MMAction2, or of MMAction2's TSM-R50.
_base_ = ["../spaces/resnet50.py", "search.py"]

model = dict(
    backbone=dict(space=_base_.space, init_cfg=_base_.donor),
    cls_head=dict(in_channels=2048, dropout_ratio=0.5),
)
