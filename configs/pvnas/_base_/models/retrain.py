# A config sets backbone.genotype, cls_head.in_channels (the genotype's
# head_channels) and cls_head.num_classes.
model = dict(
    type="Recognizer3D",
    backbone=dict(type="PVNASNet"),
    cls_head=dict(type="I3DHead", dropout_ratio=0.2, average_clips="prob"),
    data_preprocessor=dict(
        type="ActionDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape="NCTHW",
    ),
)
