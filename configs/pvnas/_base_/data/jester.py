# Uniform sampling (u8) at 224x224; the test sees 2 clips x 3 crops. Lists and videos as
# MMAction2's tools/data/jester make them: class ids in the order of
# jester-v1-labels.csv.
_base_ = "sthv2.py"

data_root = "data/jester/videos"
ann_file_train = "data/jester/jester_train_list_videos.txt"
ann_file_val = "data/jester/jester_val_list_videos.txt"
num_classes = 27

# What a mirror swaps: swiping (0, 1) and sliding two fingers (6, 7) left and right,
# turning the hand clockwise and counterclockwise (14, 15).
jester_flip_label_map = {0: 1, 1: 0, 6: 7, 7: 6, 14: 15, 15: 14}
train_pipeline = [
    *_base_.train_pipeline[:6],
    dict(type="Flip", flip_ratio=0.5, flip_label_map=jester_flip_label_map),
    *_base_.train_pipeline[7:],
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
    )
)
test_dataloader = dict(
    dataset=dict(
        ann_file=ann_file_val,
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
    )
)
