"""tools/derive_genotype.py, on the checkpoint of a search that really ran."""

import itertools
import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from searching import (
    INPUT_SHAPE,
    NUM_CLASSES,
    SPACE,
    ToyClips,
    run_search,
    search_config,
)

from pvnas_mmaction.search.archive import Archive
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import load_genotype
from pvnas_mmaction.space.search_space import SearchSpace

TOY = SearchSpace.from_config(SPACE)


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of a finished toy search, and its config as toy.py in it."""
    folder = tmp_path_factory.mktemp("search")
    run_search(folder)
    search_config(folder).dump(folder / "toy.py")
    return folder


@pytest.fixture
def derive(run_tool):
    """Run the tool; gives exit status, stdout and stderr."""
    return partial(run_tool, "derive_genotype")


def blocks_of(indices) -> tuple[str, ...]:
    return tuple(row[i] for row, i in zip(TOY.candidates, indices, strict=True))


def cost_of(blocks):
    return network_cost(TOY.skeleton, blocks, INPUT_SHAPE, NUM_CLASSES)


def all_networks(work_dir: Path) -> list[tuple[float, tuple[int, ...]]]:
    """Every network with its log-probability, the most likely first; by hand, from the
    alphas of the last checkpoint."""
    checkpoint = torch.load(work_dir / "epoch_6.pth", weights_only=True)
    rows = []
    for row in checkpoint["state_dict"]["backbone.alphas"].double().tolist():
        total = math.log(math.fsum(map(math.exp, row)))
        rows.append([alpha - total for alpha in row])
    networks = [
        (math.fsum(row[i] for row, i in zip(rows, choice, strict=True)), choice)
        for choice in itertools.product(*(range(len(row)) for row in rows))
    ]
    return sorted(networks, reverse=True)


def test_best_network_of_each_budget(work_dir, derive, tmp_path):
    networks = all_networks(work_dir)
    macs = sorted(cost_of(blocks_of(c)).macs for _, c in networks)
    for number, limit in enumerate((macs[0], macs[10], macs[-1])):
        best = next(p for p, c in networks if cost_of(blocks_of(c)).macs <= limit)
        out = tmp_path / str(number)
        status, stdout, _ = derive(
            work_dir, "--budget-gflops", repr(limit / 1e9), "--out", out
        )
        assert status == 0
        genotype = load_genotype(out / "genotype_01.json")
        cost = cost_of(genotype.blocks)
        assert cost.macs <= limit
        found = {blocks_of(c): p for p, c in networks}[genotype.blocks]
        assert found == pytest.approx(best, abs=1e-9)  # several may tie
        facts = dict(macs=cost.macs, params=cost.params, step=18, seed=0)
        facts["input_shape"] = list(INPUT_SHAPE)
        assert facts.items() <= genotype.provenance.items()
        assert genotype.provenance["checkpoint"].endswith("epoch_6.pth")
        assert "--budget-gflops" in genotype.provenance["command"]
        assert f"{cost.macs / 1e9:.4f}" in stdout
        assert f"{cost.params / 1e6:.4f}" in stdout


def accuracy_of(work_dir: Path, blocks, weights: Path) -> float:
    """Accuracy of saved weights, counted here."""
    cfg = search_config(work_dir)
    init_default_scope("mmaction")
    genotype = json.loads(TOY.genotype([0, 0, 0]).to_json())
    genotype["blocks"] = list(blocks)
    backbone = dict(type="PVNASNet", genotype=genotype)
    model = MODELS.build(dict(cfg.model.to_dict(), backbone=backbone)).eval()
    checkpoint = torch.load(weights, weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    right = total = 0
    for batch in Runner.build_dataloader(cfg.val_dataloader):
        for sample in model.val_step(batch):
            right += int(sample.pred_score.argmax()) == int(sample.gt_label)
            total += 1
    return right / total


def test_ranking_with_inherited_weights(work_dir, derive, tmp_path):
    options = ["--num-candidates", 6, "--rank-on", work_dir / "toy.py"]
    status, stdout, _ = derive(work_dir, *options, "--save-weights", "--out", tmp_path)
    assert status == 0
    files = sorted(tmp_path.glob("*.json"))
    genotypes = [load_genotype(file) for file in files]
    accuracies = [genotype.provenance["accuracy"] for genotype in genotypes]
    assert accuracies == sorted(accuracies, reverse=True)
    assert f"{accuracies[0]:.4f}" in stdout

    # What the search itself measured for the most likely network.
    entry = Archive.load(work_dir / "search" / "archive.json").entries[-1]
    assert entry.blocks == blocks_of(all_networks(work_dir)[0][1])
    same = [g for g in genotypes if g.blocks == entry.blocks]
    assert [g.provenance["accuracy"] for g in same] == [entry.accuracy]

    # Weights are those of the supernet, statistics of batch normalisation are not.
    supernet = torch.load(work_dir / "epoch_6.pth", weights_only=True)["state_dict"]
    file, genotype = files[0].with_suffix(".pth"), genotypes[0]
    state = torch.load(file, weights_only=True)["state_dict"]
    ops = TOY.indices_of_blocks(genotype.blocks)
    for key, value in state.items():
        for layer, index in enumerate(ops):
            key = key.replace(f"layers.{layer}.", f"layers.{layer}.ops.{index}.", 1)
            if "ops" in key:
                break
        if "running" in key or "num_batches" in key:
            assert not torch.equal(value, supernet[key])
        else:
            assert torch.equal(value, supernet[key])
    for file, genotype in zip(files, genotypes, strict=True):
        weights = file.with_suffix(".pth")
        accuracy = accuracy_of(work_dir, genotype.blocks, weights)
        assert accuracy == genotype.provenance["accuracy"]


@DATASETS.register_module()
class SmallClips(ToyClips):
    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        return {**sample, "inputs": sample["inputs"][..., :4]}


def test_ranking_on_other_clips(work_dir, derive, tmp_path):
    option = ["--cfg-options", "val_dataloader.dataset.type=SmallClips"]
    argv = ["--rank-on", work_dir / "toy.py", "--out", tmp_path, *option]
    line = "val_dataloader.dataset.pipeline: expected clips (3, 4, 8, 8), as in "
    assert line in derive(work_dir, *argv)[2]


def test_a_checkpoint_is_enough(work_dir, derive, tmp_path):
    alone = shutil.copy(work_dir / "epoch_6.pth", tmp_path)
    assert derive(alone, "--out", tmp_path / "out")[0] == 0
    genotype = load_genotype(tmp_path / "out" / "genotype_01.json")
    assert genotype.provenance["macs"] == cost_of(genotype.blocks).macs
    assert "genotypes of another" in derive(alone, "--out", tmp_path / "out")[2]


def test_wrong_options(work_dir, derive, tmp_path):
    for options, message in (
        (["--budget-ms", 5], "--budget-ms: expected a --latency-table as well"),
        (["--save-weights"], "--save-weights: expected --rank-on CONFIG as well"),
        (["--budget-gflops", -1], "--budget-gflops: expected a number above 0, got -1"),
        (["--budget-gflops", 1e-9], " MACs or more, the cheapest network"),
        (["--num-candidates", 0], "--num-candidates: expected a whole number from 1"),
        (["--latency-table", "none.json"], "No such file"),
    ):
        status, _, stderr = derive(work_dir, *options, "--out", tmp_path)
        assert status == 2
        assert message in stderr.splitlines()[0]
    expected = f"got the folder {work_dir}/search"
    assert expected in derive(work_dir / "search", "--out", tmp_path)[2]
