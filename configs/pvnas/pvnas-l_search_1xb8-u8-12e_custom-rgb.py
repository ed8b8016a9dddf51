# The larger network for videos of your own: as pvnas-s_search_1xb8-u8-12e_custom-rgb.py,
# from the ImageNet weights of EfficientNet-Lite2. The budget is 0.58 of the donor's
# multiply-accumulates, 4 G at 8x224x224. Fine-tune what is found with
# pvnas-l_retrain_1xb8-u8-12e_custom-rgb.py.
_base_ = [
    "_base_/models/search_lite2.py",
    "_base_/data/custom.py",
    "_base_/schedules/search_donor.py",
    "_base_/search_runtime.py",
]

model = dict(cls_head=dict(num_classes=_base_.num_classes))
train_dataloader = dict(batch_size=8)
train_cfg = dict(
    max_epochs=12,
    input_shape=(3, 8, 112, 112),
    cost=dict(kind="flops", budget=1e9),
    num_ranked=4,
    race_steps=60,
    donor=dict(tune_steps=80, clips=32),
)
