"""The race of a search's finalists."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from searching import (
    CONFIGS,
    build_toy_model,
    make_batch,
    run_ranks,
    run_search,
    toy_optimizers,
    toy_search,
)
from torch import nn

from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.search.archive import Archive
from pvnas_mmaction.search.derive import Budget
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.search.selection import hand_designed
from pvnas_mmaction.search.steps import Steps
from pvnas_mmaction.space.cost_table import cost_tables
from pvnas_mmaction.space.genotype import load_genotype
from pvnas_mmaction.space.search_space import SearchSpace

STEPS = 3
NETWORK = (0, 1, 2)


def test_the_hand_designed_network_is_the_donor_with_shift_narrowed_to_the_budget() -> (
    None
):
    cfg = load_config("pvnas_mmaction::pvnas/_base_/spaces/lite0.py")
    space = SearchSpace.from_config(cfg.space)
    table = cost_tables(space, (3, 8, 112, 112), 7)["flops"]
    wide = hand_designed(space, [Budget(table, 10**12)])
    tsm = load_genotype(CONFIGS / "genotypes" / "lite0-tsm.json")
    assert space.genotype(wide).blocks == tsm.blocks
    narrow = hand_designed(space, [Budget(table, 280_000_000)])
    blocks = space.genotype(narrow).blocks
    assert table.cost(narrow) <= 280_000_000
    names = ([block[:8] for block in found] for found in (blocks, tsm.blocks))
    for mine, donors in zip(*names, strict=True):
        assert mine in (donors, "skip")
    assert len({*blocks} - {*tsm.blocks}) > 0


def racing(number: int, rank: int = 0, world: int = 1) -> list[dict]:
    batches = [make_batch(4, seed) for seed in range(number)]
    return [{k: v[rank::world] for k, v in batch.items()} for batch in batches]


def optimizers_of(model: nn.Module) -> dict:
    optimizers = toy_optimizers(model)
    weights = [p for n, p in model.named_parameters() if "alphas" not in n]
    adam = torch.optim.AdamW(weights, lr=0.05)
    return dict(optimizers, weights=OptimWrapper(adam))


def make_search(**settings) -> Search:
    model = build_toy_model()
    model.cls_head.dropout = None
    race = dict(race_steps=STEPS, racing=racing, num_clips=10) | settings
    race["optimizers"] = optimizers_of(model)
    return toy_search(
        model, validate=lambda model: 0.5, calibration=lambda: racing(1), **race
    )


def test_a_network_is_trained_apart():
    """As by plain steps of a copy; the supernet and its optimiser stay as they are."""
    search, seen = make_search(), []
    search.begin()
    search.set_rates()
    search.step(make_batch(seed=7))  # gives the optimiser a state
    before = copy.deepcopy([search.model.state_dict(), *search.optimizers.values()])
    search.validate = lambda m: seen.append(copy.deepcopy(m.state_dict())) or 0.25
    other = copy.deepcopy(search.model)
    assert search.trained_accuracy(NETWORK) == 0.25

    optimizers = optimizers_of(other)
    steps = Steps(other, *optimizers.values())
    steps.owners = other.backbone.share_weights()
    for number, batch in enumerate(racing(STEPS)):
        for group in optimizers["weights"].optimizer.param_groups:
            group["lr"] = search.schedule.short_lr(number, STEPS)
        steps.weights_step(batch, other.backbone.path_of(NETWORK))
    trained = dict(other.named_parameters())
    assert any(not torch.equal(v, before[0][k]) for k, v in trained.items())
    for name, value in trained.items():
        torch.testing.assert_close(seen[0][name], value, msg=name)
    for name, value in search.model.state_dict().items():
        assert torch.equal(value, before[0][name]), name
    weights = search.optimizers["weights"], before[1]
    ours, theirs = (wrapper.optimizer.state_dict() for wrapper in weights)
    assert ours["state"].keys() == theirs["state"].keys() != set()
    for key, state in ours["state"].items():
        for name, value in state.items():
            assert value is None or torch.equal(value, theirs["state"][key][name])


@pytest.mark.parametrize("winner", ["archive", "hand-designed"])
def test_the_best_finalist_is_the_result(winner):
    search = make_search()
    search.begin()
    for cycle, p in enumerate([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]):
        rows = [[float(torch.tensor(v).log()) for v in p]] * 3
        facts = dict(step=1, diversity=0.5, planned_diversity=0.5)
        search.selection.finish_cycle(rows, cycle, **facts)
    other = hand_designed(search.space, [])
    entries = search.archive.entries
    found = search.space.indices_of_blocks(entries[1].blocks)
    assert found != other
    best = found if winner == "archive" else other
    search.trained_accuracy = lambda indices: 0.75 if indices == best else 0.5
    final = search.finish()
    assert final.blocks == search.space.blocks(best)
    assert (final.accuracy, final.file) == (0.75, "genotypes/final.json")
    assert [entry.accuracy for entry in entries] == [0.5, 0.5]


def test_a_search_ends_in_a_race(tmp_path):
    """Started twice, it ends in the same; without the race, in the same weights."""
    for name, steps in (("a", 2), ("b", 2), ("none", 0)):
        run_search(tmp_path / name, train_cfg=dict(race_steps=steps))
    files = [tmp_path / n / "search/archive.json" for n in ("a", "b", "none")]
    first, second, without = map(Archive.load, files)
    assert first.to_dict() == second.to_dict()
    assert first.entries == without.entries
    states = [torch.load(tmp_path / n / "epoch_6.pth") for n in ("a", "none")]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name


def trained(world: int) -> dict:
    rank = torch.distributed.get_rank() if world > 1 else 0
    search, seen = make_search(racing=lambda n: racing(n, rank, world)), []
    for module in search.model.modules():  # one rank normalises by its own clips
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            module.eval()
    search.begin()
    search.validate = lambda m: seen.append(copy.deepcopy(dict(m.named_parameters())))
    search.trained_accuracy(NETWORK)
    return {name: value.detach() for name, value in seen[0].items()}


def test_two_ranks_train_as_one(tmp_path):
    alone = trained(1)
    for found in run_ranks(tmp_path, 2, trained, 2):
        assert not isinstance(found, str), found
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
