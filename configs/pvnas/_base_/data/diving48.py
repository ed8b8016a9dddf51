# Uniform sampling of 16 frames (u16), since dives differ in the order of their turns,
# at 224x224; the test sees 2 clips x 3 crops. Lists and videos as MMAction2's
# tools/data/diving48 make them.
_base_ = "sthv2.py"

data_root = "data/diving48/videos"
ann_file_train = "data/diving48/diving48_train_list_videos.txt"
ann_file_val = "data/diving48/diving48_val_list_videos.txt"
num_classes = 48

# No class knows left from right.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="UniformSample", clip_len=16),
    *_base_.train_pipeline[2:6],
    dict(type="Flip", flip_ratio=0.5),
    *_base_.train_pipeline[7:],
]
val_pipeline = [
    _base_.val_pipeline[0],
    dict(type="UniformSample", clip_len=16, test_mode=True),
    *_base_.val_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="UniformSample", clip_len=16, num_clips=2, test_mode=True),
    *_base_.test_pipeline[2:],
]

train_dataloader = dict(
    dataset=dict(
        ann_file=ann_file_train,
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file=ann_file_val,
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
        pipeline=val_pipeline,
    )
)
test_dataloader = dict(
    dataset=dict(
        ann_file=ann_file_val,
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
        pipeline=test_pipeline,
    )
)
