# Your own clips: set these four lines, here or as environment variables of these names.
# A list has one 'path class_id' per line; paths start from data_prefix.
ann_file_train = "{{$ANN_FILE_TRAIN:data/custom/train.txt}}"
ann_file_val = "{{$ANN_FILE_VAL:data/custom/val.txt}}"
data_prefix = dict(video="{{$DATA_PREFIX:data/custom}}")
num_classes = {{"$NUM_CLASSES:2"}}

# Uniform sampling of 8 frames (u8) at 112x112. Set flip_ratio to 0 where a mirror turns
# one class into another.
train_pipeline = [
    dict(type="PVNASVideoInit"),
    dict(type="UniformSample", clip_len=8),
    dict(type="PVNASVideoDecode"),
    dict(type="Resize", scale=(-1, 128)),
    dict(type="RandomResizedCrop", area_range=(0.4, 1.0)),
    dict(type="Resize", scale=(112, 112), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.5),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
val_pipeline = [
    dict(type="PVNASVideoInit"),
    dict(type="UniformSample", clip_len=8, test_mode=True),
    dict(type="PVNASVideoDecode"),
    dict(type="Resize", scale=(-1, 128)),
    dict(type="CenterCrop", crop_size=112),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
test_pipeline = val_pipeline

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="PVNASVideoDataset",
        ann_file=ann_file_train,
        data_prefix=data_prefix,
        num_classes=num_classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PVNASVideoDataset",
        ann_file=ann_file_val,
        data_prefix=data_prefix,
        num_classes=num_classes,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="AccMetric")
test_evaluator = val_evaluator
