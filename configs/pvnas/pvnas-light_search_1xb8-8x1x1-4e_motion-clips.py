# A look at the space `light` on a CPU: four passes over the clips of the demo, one cycle.
_base_ = [
    "_base_/spaces/light.py",
    "_base_/models/search.py",
    "_base_/data/motion_clips.py",
    "_base_/schedules/search.py",
    "_base_/search_runtime.py",
]

model = dict(
    backbone=dict(space=_base_.space),
    cls_head=dict(
        in_channels=_base_.space.head_channels, num_classes=_base_.num_classes
    ),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=4, input_shape=(3, 8, 32, 32))
optim_wrapper = dict(weights=dict(optimizer=dict(lr=0.01)))
custom_hooks = [
    dict(type="LRDiversityHook", num_cycles=1),
    dict(type="SearchHistoryHook", interval=10),
    dict(type="GenotypePictureHook"),
    dict(type="SkippedClipsHook"),
]
