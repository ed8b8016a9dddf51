# As motion_clips.py, six frames at 20x20: what the ground truth table was made with.
_base_ = "motion_clips.py"

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="SampleFrames", clip_len=6, frame_interval=1, num_clips=1),
    _base_.train_pipeline[2],
    dict(type="Resize", scale=(20, 20), keep_ratio=False),
    *_base_.train_pipeline[4:],
]
val_pipeline = [
    _base_.val_pipeline[0],
    dict(
        type="SampleFrames", clip_len=6, frame_interval=1, num_clips=1, test_mode=True
    ),
    _base_.val_pipeline[2],
    dict(type="Resize", scale=(20, 20), keep_ratio=False),
    *_base_.val_pipeline[4:],
]
test_pipeline = val_pipeline

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
