# A network of `resnet50`. For the ImageNet weights see search_resnet50.py.
_base_ = "retrain.py"

model = dict(
    backbone=dict(
        init_cfg=dict(type="InheritFrom", checkpoint="torchvision://resnet50")
    ),
    cls_head=dict(in_channels=2048, dropout_ratio=0.5),
)
