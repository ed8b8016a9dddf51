# Dense sampling (8x8x1) at 224x224, split 1. Lists and videos as MMAction2's
# tools/data/hmdb51 make them.
_base_ = "kinetics400.py"

data_root = "data/hmdb51/videos"
ann_file_train = "data/hmdb51/hmdb51_train_split_1_videos.txt"
ann_file_val = "data/hmdb51/hmdb51_val_split_1_videos.txt"
num_classes = 51

train_dataloader = dict(
    dataset=dict(
        ann_file=ann_file_train,
        data_prefix=dict(video=data_root),
        num_classes=num_classes,
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
