"""A search from a donor: what each phase runs, against what it says it computes."""

import copy
import json
import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from searching import (
    INPUT_SHAPE,
    NO_VALIDATION,
    SPACE,
    make_batch,
    run_forked,
    run_ranks,
    run_search,
    toy_model,
    toy_optimizers,
    toy_search,
)
from test_resume import kill_and_resume, last_checkpoint, leaves
from torch import nn

from pvnas_mmaction.models.inherit import spread
from pvnas_mmaction.models.relaxation import Choice
from pvnas_mmaction.search.diversity import diversity, softmax
from pvnas_mmaction.search.donor_warmup import (
    DonorWarmup,
    alphas_from,
    block_losses,
    full_network,
    near,
    price_of,
)
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.search.steps import Steps
from pvnas_mmaction.space.cost_table import CostTable
from pvnas_mmaction.space.search_space import SearchSpace

BLOCKS = [
    *("mb_t1_k3_e4", "ts_t3_k3_e4", "mb_t3_k3_e4", "mb3d_t5_k3_e4", "mb_t1_k5_e4"),
    *("mb_t1_k3_e2", "mb_t3_k5_e2", "skip"),
]
AS_WIDE = [0, 2, 3, 4]  # compute what the first does when they inherit from it
STAGE = dict(SPACE["stages"][0], candidates=BLOCKS)
DONOR_SPACE = dict(SPACE, name="donor", stages=[STAGE])
DONOR = dict(tune_steps=4, clips=8)
FULL = (1, 1, 1)
BUDGET = 25_000


@pytest.fixture
def model() -> nn.Module:
    init_default_scope("mmaction")
    torch.manual_seed(0)
    model = MODELS.build(toy_model(DONOR_SPACE))
    for module in model.modules():  # zero batch norms would hide everything
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.train()


def make_search(model: nn.Module, **donor) -> Search:
    return toy_search(
        model,
        cost=dict(kind="flops", budget=BUDGET),
        donor=dict(DONOR, **donor),
        judging=lambda clips: [make_batch(clips, 7)],
    )


def features(model: nn.Module, indices, clips) -> torch.Tensor:
    net = model.backbone
    return net(clips, net.path_of(indices))


def test_all_candidates_inherit_from_the_full_network(model):
    net, full = model.backbone.eval(), (0, 0, 0)
    net.share = False  # or the channels keep their order
    clips = torch.randn(2, *INPUT_SHAPE)
    with torch.no_grad():
        before = features(model, full, clips)
        far = (features(model, (2, 3, 4), clips) - before).abs().max()
        assert spread(net, full) == []
        for j in AS_WIDE:
            found = features(model, (j, 0, j), clips)
            torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-4)
        assert far > 0.1
        assert torch.equal(features(model, full, clips), before)
        narrow = features(model, (5, 5, 5), clips)
        assert (narrow - before).abs().max() > 1e-4
    # A narrower block has the channels that count most, in all of its parts.
    wide, other = net.layers[0].ops[0], net.layers[0].ops[5]
    norms = wide.project.conv.weight.abs().sum((0, 2, 3, 4))
    kept = norms.argsort(descending=True)[: len(other.expand.conv.weight)]
    for role in ("expand", "spatial"):
        ours, theirs = (getattr(op, role).conv.weight for op in (other, wide))
        assert torch.equal(ours, theirs[kept])
    assert torch.equal(other.project.conv.weight, wide.project.conv.weight[:, kept])


def test_single_blocks_are_judged(model):
    """Each loss is that of a whole forward of the changed network."""
    full, batches = (0, 1, 5), [make_batch(4, 3), make_batch(2, 4)]
    state = copy.deepcopy(model.state_dict())
    base, rows = block_losses(model, full, copy.deepcopy(batches))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name

    def loss(indices) -> float:
        total = 0.0
        for batch in copy.deepcopy(batches):
            data = model.data_preprocessor(batch, training=False)
            x = model.backbone(data["inputs"][:, 0], model.backbone.path_of(indices))
            scores = model.cls_head.fc_cls(x.mean((2, 3, 4)))
            labels = torch.cat([sample.gt_label for sample in data["data_samples"]])
            total += float(F.cross_entropy(scores, labels, reduction="sum"))
        return total / 6

    assert base == pytest.approx(loss(full), rel=1e-5)
    for layer, row in enumerate(rows):
        for j, value in enumerate(row):
            changed = (*full[:layer], j, *full[layer + 1 :])
            assert value == pytest.approx(loss(changed), rel=1e-4), (layer, j)


def test_alphas_are_what_single_blocks_are_worth():
    rows = [[1.0, 1.2, 3.0], [1.0, 0.9, 1.1], [1.0, 1.0, 4.0]]
    alphas, temperature = alphas_from(rows, 0.9)
    assert diversity(softmax(alphas)) == pytest.approx(0.9)
    for row, losses in zip(alphas, rows, strict=True):
        mean = sum(losses) / 3
        assert row == pytest.approx([(mean - loss) / temperature for loss in losses])
    assert alphas_from([[1.0, 1.0]], 0.9) == ([[0.0, 0.0]], 1.0)
    # Two of three are equally good: p can't be less diverse than that.
    alphas, _ = alphas_from([[1.0, 1.0, 2.0]], 0.1)
    assert diversity(softmax(alphas)) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("limit", [30, 17, 11, 6])
def test_the_price_is_the_lowest_that_keeps_the_budget(limit):
    losses = [[1.0, 1.5, 2.4], [0.5, 0.6, 1.9], [2.0, 2.1, 2.3]]
    costs = [[9.0, 4.0, 1.0], [8.0, 5.0, 2.0], [7.0, 3.0, 2.0]]
    table = CostTable("flops", "MACs", 1.0, costs)
    price = price_of(losses, table, limit)

    def cost(price: float) -> float:
        def total(indices) -> float:
            pairs = [(losses[i][j], costs[i][j]) for i, j in enumerate(indices)]
            return sum(loss + price * cost for loss, cost in pairs)

        return table.cost(min(product(range(3), repeat=3), key=total))

    assert cost(price) <= limit
    assert price == 0 if cost(0) <= limit else cost(0.999 * price) > limit


def test_the_path_is_distilled_from_the_full_network(model):
    """Gradients of the one step are those of the two losses written out."""
    model.cls_head.dropout = None
    reference = copy.deepcopy(model)
    optimizers = toy_optimizers(model, lr=1.0)
    net, batch = model.backbone, make_batch()
    steps = Steps(model, optimizers["weights"], optimizers["alphas"])
    full, path = (net.path_of(indices) for indices in ((0, 0, 0), (0, 5, 2)))
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    logs = steps.weights_step(copy.deepcopy(batch), path, full)

    data = reference.data_preprocessor(batch, training=True)
    labels = torch.cat([sample.gt_label for sample in data["data_samples"]])
    scores = []
    for indices in ((0, 0, 0), (0, 5, 2)):
        x = features(reference, indices, data["inputs"][:, 0])
        scores.append(reference.cls_head.fc_cls(x.mean((2, 3, 4))))
    p, q = scores[0].detach().softmax(1), scores[1].softmax(1)
    path_loss = (p * (p.log() - q.log())).sum(1).mean()
    (F.cross_entropy(scores[0], labels) + path_loss).backward()
    assert float(logs["path_loss"]) == pytest.approx(float(path_loss), rel=1e-4)
    moved = 0
    for (name, ours), theirs in zip(
        model.named_parameters(), reference.parameters(), strict=True
    ):
        gradient = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(
            before[name] - ours, gradient, rtol=1e-3, atol=1e-5, msg=name
        )
        moved += theirs.grad is not None
    assert 0 < moved < len(before)


def test_paths_stay_near():
    path, network = (tuple(Choice((j,)) for _ in range(16)) for j in (5, 2))
    found = set()
    for seed in range(60):
        drawn = near(path, network, torch.Generator().manual_seed(seed))
        free = [i for i, choice in enumerate(drawn) if choice is path[i]]
        assert len(free) == 4
        assert all(drawn[i] is network[i] for i in {*range(16)} - {*free})
        found |= {*free}
    assert found == {*range(16)}


def test_phases_of_a_search(model, monkeypatch):
    seen, weights_step = [], Steps.weights_step

    def noted(steps, batch, path, teacher):
        indices = tuple(choice.indices[0] for choice in path)
        rates = steps.weights.optimizer.param_groups[0]["lr"]
        seen.append((indices, teacher, rates))
        return weights_step(steps, batch, path, teacher)

    monkeypatch.setattr(Steps, "weights_step", noted)
    search = make_search(model)
    alphas = []
    search.begin()
    while not search.is_done:
        step, rests = search.num_steps, search.rests
        tuning = search.schedule.is_tuning(step)
        search.set_rates()
        batch = None if rests else make_batch(seed=search.num_steps)
        search.step(make_batch(seed=100 + search.num_steps), batch)
        alphas.append((tuning, rests, search.alphas))
        if search.at_cycle_end:
            search.end_cycle()
    assert len(seen) == 22 and search.num_alpha_steps == 12
    assert [entry.step for entry in search.archive.entries] == [4, 13, 22]
    for indices, teacher, rate in seen[:4]:
        assert indices == FULL and teacher is None and 0 < rate <= 0.05
    assert seen[1][2] > seen[3][2]
    # The first network of the archive: best of all by losses that add up.
    found, first = search.sensitivities, search.archive.entries[0]
    losses = [list(row.values()) for row in found["losses"]]
    table = search.selection.table
    kept = [n for n in product(range(8), repeat=3) if table.cost(n) <= BUDGET]
    best = min(
        kept, key=lambda n: sum(row[j] for row, j in zip(losses, n, strict=True))
    )
    assert search.space.indices_of_blocks(first.blocks) == best != FULL
    assert table.cost(FULL) > BUDGET
    assert (first.cycle, first.accuracy) == (-1, None)
    for indices, teacher, _ in seen[4:]:
        assert [choice.indices[0] for choice in teacher] == list(FULL)
        assert sum(i != j for i, j in zip(indices, best, strict=True)) <= 1
    assert len({indices for indices, _, _ in seen[4:]}) > 3
    # Alphas: uniform, then what single blocks are worth, at rest in the warm-up.
    assert alphas[2][2] == [[0.0] * 8] * 3
    assert [t for t, _, _ in alphas] == [True] * 4 + [False] * 18
    assert diversity(softmax(alphas[3][2])) == pytest.approx(0.95, abs=1e-6)
    for row, values, costs in zip(alphas[3][2], losses, table.per_layer, strict=True):
        worth = [v + found["price"] * c for v, c in zip(values, costs, strict=True)]
        expected = [(sum(worth) / 8 - v) / found["temperature"] for v in worth]
        assert row == pytest.approx(expected, abs=1e-5)
    assert found["price"] > 0
    assert list(found["losses"][0]) == BLOCKS and found["full"] == ["ts_t3_k3_e4"] * 3
    assert alphas[6][1] and alphas[6][2] == alphas[3][2] != alphas[-1][2]


def settings(**changes) -> dict:
    config = dict(max_epochs=8, donor=DONOR, cost=dict(kind="flops", budget=BUDGET))
    model = toy_model(DONOR_SPACE)
    return dict(model=model, train_cfg=config, **NO_VALIDATION, **changes)


def test_killed_in_each_phase(tmp_path):
    """In the tuning, right before and after what ends it, in both cycles."""
    hooks = [
        dict(type="LRDiversityHook", num_cycles=2),
        dict(type="SearchHistoryHook", interval=2),
    ]
    checkpoint = dict(default_hooks=dict(checkpoint=dict(by_epoch=False, interval=1)))
    whole = settings(custom_hooks=hooks, **checkpoint)
    assert run_forked(run_search, tmp_path / "whole", **whole) == 0
    kills = [2, 3, 4, 9, 17]
    hooks = [*hooks, dict(type="KillHook", steps=kills, before_checkpoint=True)]
    killed = settings(custom_hooks=hooks, **checkpoint)
    kill_and_resume(tmp_path / "killed", killed, len(kills))
    ours, theirs = (last_checkpoint(tmp_path / n) for n in ("killed", "whole"))
    assert ours["meta"]["iter"] == theirs["meta"]["iter"] == 24
    for part in ("state_dict", "optimizer", "pvnas_search"):
        found, expected = leaves(ours[part]), leaves(theirs[part])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same = torch.equal if isinstance(value, torch.Tensor) else math.isclose
            if isinstance(value, int | float | torch.Tensor):
                assert same(found[name], value), name
    for name in (
        *("sensitivities.json", "archive.json", "history.jsonl"),
        "genotypes/cycle_00.json",
    ):
        files = [tmp_path / n / "search" / name for n in ("killed", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    state = torch.load(tmp_path / "killed/search/genotype.pth")["state_dict"]
    network = json.loads((tmp_path / "killed/search/genotype.json").read_text())
    config = toy_model()
    config["backbone"] = dict(type="PVNASNet", genotype=network)
    init_default_scope("mmaction")
    MODELS.build(config).load_state_dict(state)
    means = [v for k, v in state.items() if k.endswith("running_mean")]
    assert all(bool(mean.any()) for mean in means)  # none is of a path that never ran
    written = json.loads((tmp_path / "whole/search/sensitivities.json").read_text())
    assert written == theirs["pvnas_search"]["sensitivities"]


def two_steps(batches: list[dict], world: int) -> dict:
    """A tuning step, its end, and a sandwich step, on a share of each batch."""
    init_default_scope("mmaction")
    torch.manual_seed(0)
    model = MODELS.build(toy_model(DONOR_SPACE)).train()
    for module in model.modules():  # one rank normalises by its own clips
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            module.eval()
    model.cls_head.dropout = None
    search = make_search(model, tune_steps=1)
    search.begin()
    rank = torch.distributed.get_rank() if world > 1 else 0
    for batch in batches:
        search.set_rates()
        search.step({k: v[rank::world] for k, v in batch.items()})
        model.train(False)
    return dict(state=model.state_dict(), found=search.sensitivities)


def test_two_ranks_equal_one(tmp_path):
    batches = [make_batch(4, seed) for seed in (1, 2)]
    alone = two_steps(batches, 1)
    found = run_ranks(tmp_path, 2, two_steps, batches, 2)
    for result in found:
        assert not isinstance(result, str), result
        for name, value in alone["state"].items():
            torch.testing.assert_close(
                result["state"][name], value, rtol=1e-4, atol=1e-5, msg=name
            )
    assert found[0]["found"] == found[1]["found"]


def test_mistakes_in_the_settings():
    space = SearchSpace.from_config(DONOR_SPACE)
    for change, message in (
        (dict(tune_steps=0), "donor: tune_steps: expected a whole number from 1 up"),
        (dict(clips=0), "donor: clips: expected a whole number from 1 up"),
        (dict(distil=1), "donor, unknown key: expected one of tune_steps, clips, got"),
    ):
        with pytest.raises(ValueError, match=message):
            DonorWarmup.read(dict(DONOR, **change), space, nn.Identity())
    assert DonorWarmup.read(None, space, nn.Identity()) is None
    assert full_network(space) == FULL
    stage = dict(STAGE, candidates=["mb_t3_k3_e4", "skip"])
    space = SearchSpace.from_config(dict(DONOR_SPACE, stages=[stage]))
    with pytest.raises(ValueError, match="space: expected first candidates without a"):
        full_network(space)
