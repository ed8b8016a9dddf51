"""Every config of configs/pvnas: found by itself, built, and run on small inputs."""

import dataclasses
import functools
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmaction.models.heads import I3DHead
from mmaction.registry import DATASETS, HOOKS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.engine.search_loop import SearchLoop
from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.models.recognizers import view_of
from pvnas_mmaction.search.derive import derive
from pvnas_mmaction.search.donor_warmup import DonorWarmup
from pvnas_mmaction.search.penalty import build_penalty
from pvnas_mmaction.search.schedule import LRDiversityConfig
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.search.steps import Steps
from pvnas_mmaction.space.cost import layer_costs, network_cost, skeleton_cost
from pvnas_mmaction.space.cost_table import cost_tables
from pvnas_mmaction.space.genotype import load_genotype
from pvnas_mmaction.space.search_space import SearchSpace

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "pvnas"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))
SEARCH = [name for name in CONFIGS if "_search_" in name]
RETRAIN = [name for name in CONFIGS if "_retrain_" in name]
# MACs per view of 8 frames (M: 16); other numbers of frames in proportion.
# At 224x224; smaller views in proportion.
BUDGETS = {"s": (1e9, 8), "l": (4e9, 8), "m": (33e9, 16)}
# By data: classes, and views of one video in the test: clips x crops.
DATA = {
    "kinetics400": (400, 10 * 3), "ucf101": (101, 10 * 3), "hmdb51": (51, 10 * 3),
    "sthv2": (174, 2 * 3), "jester": (27, 2 * 3), "diving48": (48, 2 * 3),
    "custom": (None, 1), "motion-clips": (8, 1),
}  # fmt: skip
NAME = re.compile(
    r"pvnas-(?P<size>\w+)_(?P<kind>search|retrain)_(?P<gpus>\d+)xb(?P<batch>\d+)-"
    r"(?:(?P<dense>\d+)x\d+x1|u(?P<uniform>\d+))-(?P<epochs>\d+)e_"
    r"(?P<data>[a-z0-9-]+?)(-rgb)?\.py"
)


@functools.cache
def load(name: str) -> Config:
    cfg = Config.fromfile(str(FOLDER / name))
    init_default_scope(cfg.default_scope)
    return cfg


def parts(name: str) -> dict[str, str]:
    match = NAME.fullmatch(name)
    assert match is not None, f"{name}: not in MMAction2's naming scheme"
    return match.groupdict()


def num_frames(name: str) -> int:
    return int(parts(name)["dense"] or parts(name)["uniform"])


def batch(num_classes: int) -> dict:
    """Two clips of 4 frames at 32x32 pixels, as a data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 3, 4, 32, 32)
    clips = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = (0, num_classes - 1)
    samples = [ActionDataSample().set_gt_label(label) for label in labels]
    return dict(inputs=list(clips), data_samples=samples)


@pytest.mark.parametrize("name", CONFIGS)
def test_name_says_what_the_config_does(name):
    cfg, said = load(name), parts(name)
    assert cfg.train_cfg.max_epochs == int(said["epochs"])
    assert cfg.train_dataloader.batch_size == int(said["batch"])
    total = int(said["gpus"]) * int(said["batch"])
    if total > 16:
        assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=total)
    assert view_of(cfg)[0][1] == num_frames(name)
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    counts = {loader.dataset.num_classes for loader in loaders}
    counts.add(cfg.model.cls_head.num_classes)
    assert counts == {DATA[said["data"]][0] or cfg.num_classes}
    for loader in loaders:
        assert DATASETS.get(loader.dataset.type) is not None
    for hook in cfg.get("custom_hooks", []):
        HOOKS.build(hook)


@pytest.mark.parametrize("name", CONFIGS)
def test_pipelines_give_the_views_of_the_recipe(name, motion_clips):
    cfg = load(name)
    video = str(motion_clips / (motion_clips / "val.txt").read_text().split()[0])
    shape, _ = view_of(cfg)
    assert shape[1] == num_frames(name)
    if name in SEARCH:
        assert tuple(cfg.train_cfg.input_shape) == shape
    views = dict(train=1, val=1, test=DATA[parts(name)["data"]][1])
    for split, number in views.items():
        pipeline = cfg[f"{split}_dataloader"].dataset.pipeline
        sample = dict(filename=video, label=0, start_index=0, modality="RGB")
        inputs = Compose(pipeline)(sample)["inputs"]
        assert tuple(inputs.shape) == (number, *shape), split


@pytest.mark.parametrize("name", RETRAIN)
def test_retrain_config_runs(name):
    cfg = load(name)
    torch.manual_seed(0)
    config = cfg.model.to_dict()
    if "torchvision://" in str(config):  # weights that have to be downloaded
        del config["backbone"]["init_cfg"]
    model = MODELS.build(config)
    model.init_weights()
    data = batch(cfg.num_classes)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = [p.detach().clone() for p in model.parameters()]
    calls = []
    model.cls_head.loss_cls.register_forward_hook(lambda *call: calls.append(call[1]))
    logs = model.train().train_step(data, wrapper)
    ((scores, labels),) = calls
    loss = nn.functional.cross_entropy(scores, labels)
    assert logs["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    # An untrained network does not know the class: the mean over all classes. The loss
    # of one class has the luck of a dropout mask, another one in each torch.
    losses = scores.logsumexp(1, keepdim=True) - scores
    assert losses.mean().item() == pytest.approx(math.log(cfg.num_classes), abs=0.4)
    after = list(model.parameters())
    assert all(p.isfinite().all() for p in after)
    still = sum(map(torch.equal, before, after))
    assert still < 0.1 * len(after)
    with torch.no_grad():
        (first, _) = model.eval().test_step(data)
    assert float(first.pred_score.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", SEARCH)
def test_search_budget_binds_and_can_be_kept(name):
    cfg = load(name)
    if parts(name)["size"] not in BUDGETS:
        assert "cost" not in cfg.train_cfg
        return
    space = SearchSpace.from_config(cfg.model.backbone.space)
    shape = cfg.train_cfg.input_shape
    limit, frames = BUDGETS[parts(name)["size"]]
    tables = cost_tables(space, shape, cfg.num_classes)
    budget = build_penalty(cfg.train_cfg.cost, tables).budget
    limit *= shape[1] / frames * shape[2] * shape[3] / 224**2
    assert budget.limit == pytest.approx(limit)
    head = I3DHead(num_classes=2, in_channels=8)
    assert DonorWarmup.read(cfg.train_cfg.donor, space, head)
    # Padding makes the smallest maps of small frames larger in proportion.
    full = (3, shape[1], 224, 224)
    ratio = 224**2 / shape[2] / shape[3]
    for row, large in zip(*(layer_costs(space, s) for s in (shape, full)), strict=True):
        assert all(b.macs <= ratio * a.macs for a, b in zip(row, large, strict=True))
    assert budget.table.cost(budget.table.most_expensive()) > budget.limit
    (found,) = derive([[0.0] * len(row) for row in space.candidates], [budget])
    blocks = space.genotype(found).blocks
    assert (
        network_cost(space.skeleton, blocks, shape, cfg.num_classes).macs
        <= budget.limit
    )


@pytest.mark.parametrize("name", SEARCH)
def test_search_config_runs(name):
    cfg = load(name)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    # Memory that is never touched costs nothing: only what a path runs gets values.
    model.to_empty(device="cpu")
    model.data_preprocessor = MODELS.build(cfg.model.data_preprocessor)
    wrappers = build_optim_wrapper(model, cfg.optim_wrapper)
    steps = Steps(model, wrappers["weights"], wrappers["alphas"])
    supernet, generator = steps.supernet, torch.Generator().manual_seed(0)
    nn.init.zeros_(supernet.alphas)
    with torch.no_grad():
        weights_path = supernet.sample("gumbel_st", generator)
    alpha_path = supernet.sample("two_path", generator)
    for layer, *choices in zip(supernet.layers, weights_path, alpha_path, strict=True):
        for index in {i for choice in choices for i in choice.indices}:
            init_weights(layer.ops[index])
    for part in (supernet.stem, supernet.head, model.cls_head):
        init_weights(part)
    model.cls_head.init_std = 1e-3  # random features may be large
    model.cls_head.init_weights()

    model.train()
    data = batch(cfg.num_classes)
    first = supernet.stem.spatial.conv.weight.detach().clone()
    logs = steps.weights_step(data, weights_path)
    assert logs["loss"].item() == pytest.approx(math.log(cfg.num_classes), abs=0.7)
    assert not torch.equal(first, supernet.stem.spatial.conv.weight)
    assert not supernet.alphas.any()

    tables = cost_tables(supernet.space, cfg.train_cfg.input_shape, cfg.num_classes)
    penalty = build_penalty(cfg.train_cfg.get("cost"), tables)
    first = supernet.stem.spatial.conv.weight.detach().clone()
    steps.alpha_step(data, alpha_path, penalty)
    assert torch.equal(first, supernet.stem.spatial.conv.weight)
    assert supernet.alphas.isfinite().all() and supernet.alphas.any(1).all()


# -- the model index --------------------------------------------------------------

MODEL_INDEX = yaml.safe_load((FOLDER / "metafile.yml").read_text())["Models"]


@pytest.mark.parametrize("entry", MODEL_INDEX, ids=lambda entry: entry["Name"])
def test_model_index_is_about_the_config_that_it_names(entry):
    path, metadata = FOLDER.parent.parent / entry["Config"], entry["Metadata"]
    assert path.stem == entry["Name"]
    cfg = load(path.name)
    assert metadata["Batch Size"] == cfg.train_dataloader.batch_size
    assert metadata["Epochs"] == cfg.train_cfg.max_epochs
    if "Resolution" not in metadata:
        return
    shape, _ = view_of(cfg)
    assert metadata["Resolution"] == "x".join(map(str, shape[1:]))
    genotype = load_genotype(cfg.model.backbone.genotype)
    cost = network_cost(genotype.skeleton, genotype.blocks, shape, cfg.num_classes)
    for field, found in (("FLOPs", cost.macs), ("Parameters", cost.params)):
        unit = dict(K=1e3, M=1e6, G=1e9)[metadata[field][-1]]
        # Three or four digits are said.
        assert float(metadata[field][:-1]) == pytest.approx(found / unit, rel=5e-3)


# -- mirrored classes ------------------------------------------------------------

ZOO_TSM = "mmaction::recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_"


@pytest.mark.parametrize(
    "name", [n for n in CONFIGS if parts(n)["data"] in ("jester", "sthv2")]
)
def test_a_flip_mirrors_labels(name):
    """Jester's that name left and right or clockwise and counterclockwise, by their
    places in jester-v1-labels.csv; those of Something-Something as TSM's config."""
    pipeline = load(name).train_dataloader.dataset.pipeline
    (flip,) = (transform for transform in pipeline if transform.type == "Flip")
    if parts(name)["data"] == "jester":
        # Swiping, sliding two fingers, turning a hand.
        expected = {0: 1, 1: 0, 6: 7, 7: 6, 14: 15, 15: 14}
    else:
        expected = dict(load_config(f"{ZOO_TSM}sthv2-rgb.py").sthv2_flip_label_map)
    assert dict(flip.flip_label_map) == expected


# -- your own data ---------------------------------------------------------------


def test_the_search_config_of_the_docs(project_root, tmp_path, monkeypatch):
    """It reads the same data as the shipped config with the environment variables."""
    text = (project_root / "docs/how_to/existing_config.md").read_text()
    _, block = re.findall(r"```python\n(_base_ = .*?)```", text, re.DOTALL)
    config = tmp_path / "own.py"
    config.write_text(block.replace("configs/pvnas", str(FOLDER)))
    found = Config.fromfile(config)
    own = dict(ANN_FILE_TRAIN="my/train.txt", ANN_FILE_VAL="my/val.txt")
    for key, value in (own | dict(DATA_PREFIX="my", NUM_CLASSES="7")).items():
        monkeypatch.setenv(key, value)
    (name,) = (n for n in SEARCH if n.startswith("pvnas-compact_") and "custom" in n)
    assert name in block
    expected = Config.fromfile(FOLDER / name)
    for name in ("model", "train_dataloader", "val_dataloader", "test_dataloader"):
        assert found[name] == expected[name]
    cost = found.train_cfg.pop("cost")
    assert found.train_cfg == expected.train_cfg
    space = SearchSpace.from_config(found.model.backbone.space)
    shape = found.train_cfg.input_shape
    macs = [[cost.macs for cost in row] for row in layer_costs(space, shape)]
    fixed = skeleton_cost(space.skeleton, shape, 7).macs
    assert cost.kind == "flops"
    cheapest, most_expensive = (fixed + sum(map(pick, macs)) for pick in (min, max))
    assert cheapest < cost.budget < most_expensive


def test_the_config_of_the_docs(project_root, tmp_path):
    """The example for configs of one's own builds a recognizer that normalises its
    clips and gives one row of probabilities for each."""
    text = (project_root / "docs/how_to/existing_config.md").read_text()
    block, _ = re.findall(r"```python\n(_base_ = .*?)```", text, re.DOTALL)
    path = "work_dirs/compact/search/genotype.json"
    assert path in block
    shipped = project_root / "configs/pvnas/genotypes/pvnas-compact.json"
    config = tmp_path / "own.py"
    config.write_text(
        block.replace(path, str(shipped)).replace("configs/pvnas", str(FOLDER), 1)
    )
    init_default_scope("mmaction")
    model = MODELS.build(Config.fromfile(config).model)
    clips = [torch.full((2, 3, 6, 20, 20), 123, dtype=torch.uint8)]
    batch = dict(inputs=clips, data_samples=[ActionDataSample()])
    data = model.data_preprocessor(batch)
    assert data["inputs"].abs().max() < 0.5
    [sample] = model.eval().test_step(batch)
    assert sample.pred_score.shape == (7,)
    assert float(sample.pred_score.sum()) == pytest.approx(1)


def test_configs_that_documents_name_are_there(project_root):
    files = [project_root / "README.md", *project_root.glob("docs/**/*.md")]
    pattern = re.compile(r"pvnas-\w+_(?:search|retrain)_[\w-]+\.py")
    named = [name for file in files for name in pattern.findall(file.read_text())]
    assert named
    assert {*named} <= {*CONFIGS}


def test_the_reference_names_every_setting_of_a_search(project_root):
    page = (project_root / "docs" / "reference" / "configs.md").read_text()
    own = {f.name for f in dataclasses.fields(LRDiversityConfig)}
    own -= {"total_steps", "weights_lr", "alphas_lr", "num_candidates"}
    own -= {"accumulated", "tune_steps"}  # from optimisers, supernet and train_cfg
    loop = inspect.signature(SearchLoop).parameters.keys()
    own |= loop - {"runner", "dataloader", "settings"}
    own |= inspect.signature(Search).parameters.keys()  # but what the loop makes
    own -= {"model", "optimizers", "schedule", "seed", "extra_setting", "num_clips"}
    own -= {"validate", "calibration", "judging", "racing"}
    assert own - {*re.findall(r"`(\w+)`", page)} == set()
