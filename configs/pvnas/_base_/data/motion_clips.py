# Made by: python tools/make_motion_clips.py --out data/motion_clips \
#     --num-train 4096 --num-val 1024
# No flip: it would turn one class into another.
dataset_type = "PVNASVideoDataset"
data_root = "data/motion_clips"
num_classes = 8
# The class of each class played backwards, for TimeReversalBlending.
opposites = [1, 0, 3, 2, 5, 4, 7, 6]

train_pipeline = [
    dict(type="PVNASVideoInit"),
    dict(type="SampleFrames", clip_len=8, frame_interval=1, num_clips=1),
    dict(type="PVNASVideoDecode"),
    dict(type="Resize", scale=(32, 32), keep_ratio=False),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
val_pipeline = [
    dict(type="PVNASVideoInit"),
    dict(
        type="SampleFrames", clip_len=8, frame_interval=1, num_clips=1, test_mode=True
    ),
    dict(type="PVNASVideoDecode"),
    dict(type="Resize", scale=(32, 32), keep_ratio=False),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
test_pipeline = val_pipeline

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        ann_file=f"{data_root}/train.txt",
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        ann_file=f"{data_root}/val.txt",
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="AccMetric")
test_evaluator = val_evaluator
