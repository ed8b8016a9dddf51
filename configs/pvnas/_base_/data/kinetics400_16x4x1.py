# As kinetics400.py, with clips of 16 frames, one in 4.
_base_ = "kinetics400.py"

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="SampleFrames", clip_len=16, frame_interval=4, num_clips=1),
    *_base_.train_pipeline[2:],
]
val_pipeline = [
    _base_.val_pipeline[0],
    dict(
        type="SampleFrames", clip_len=16, frame_interval=4, num_clips=1, test_mode=True
    ),
    *_base_.val_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(
        type="SampleFrames", clip_len=16, frame_interval=4, num_clips=10, test_mode=True
    ),
    *_base_.test_pipeline[2:],
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
