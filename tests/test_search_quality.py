"""The judgement of searches by a table: baselines, arithmetic, and a search itself."""

import copy

import numpy as np
import pytest
import searching
import torch
from mmengine.config import Config

from benchmarks.baselines import (
    Oracle,
    local_search,
    random_search,
    regularised_evolution,
)
from benchmarks.clips import MotionClips
from benchmarks.ground_truth import GroundTruth
from benchmarks.ground_truth.recipe import Recipe
from benchmarks.ground_truth.table import Network, all_indices
from benchmarks.memory_search import MemorySearch
from benchmarks.search_quality import CONFIG
from benchmarks.search_report import judge, judge_all, markdown
from pvnas_mmaction.models.supernet import log_probabilities
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace

VIEWS = 100
SIZE = 16


def make_table(keep: int | None = None) -> GroundTruth:
    """`tiny`, or ``keep`` of its networks, with accuracies that add up over the layers,
    and a little noise per seed."""
    space = SearchSpace.from_config(Config.fromfile(CONFIG).model.backbone.space)
    recipe = Recipe(size=SIZE, train_clips=32)
    shape = (3, recipe.clip_len, SIZE, SIZE)
    settings = dict(space=space.to_config(), recipe=dict(vars(recipe)), val_clips=1000)
    settings |= dict(clips=dict(classes=list("abcdefgh")), views_per_training=VIEWS)
    generator = np.random.default_rng(0)
    worth = [generator.uniform(0, 0.2, len(c)) for c in space.candidates]
    networks = []
    for indices in all_indices(space)[:keep]:
        mean = sum(w[i] for w, i in zip(worth, indices, strict=True))
        noise = generator.normal(0, 0.01, 2)
        blocks = space.genotype(indices).blocks
        cost = network_cost(space.skeleton, blocks, shape, 8)
        accuracies = tuple(float(a) for a in np.clip(mean + noise, 0, 1))
        networks.append(Network(indices, blocks, accuracies, cost.macs, cost.params))
    return GroundTruth(settings, [0, 1], networks)


@pytest.fixture(scope="module")
def table() -> GroundTruth:
    return make_table()


# -- baselines ----------------------------------------------------------------


@pytest.mark.parametrize("search", [random_search, local_search, regularised_evolution])
@pytest.mark.parametrize("trainings", [1, 50])
def test_every_training_counts_once_and_keeps_the_budget(table, search, trainings):
    budget = table.median_macs()
    trainer = Oracle(table, np.random.default_rng(0), budget)
    found = search(trainer, trainings)
    assert all(table[indices].macs <= budget for indices in trainer.trained)
    assert len(trainer.trained) == trainings
    assert trainer.clips == trainings * VIEWS
    assert trainer.trained[found] == max(trainer.trained.values())
    for indices, accuracy in trainer.trained.items():
        assert accuracy in table[indices].accuracies


def test_local_search_climbs_where_layers_add_up(table):
    def mean_regret(search) -> float:
        trainers = [Oracle(table, np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([table.regret(search(t, 40)) for t in trainers]))

    assert mean_regret(local_search) < 0.7 * mean_regret(random_search)


# -- judgement ----------------------------------------------------------------


def test_rank_and_regret_by_hand(table):
    networks = list(table)[::16]
    for max_macs in (None, table.median_macs()):
        kept = {i: n for i, n in table.items() if not max_macs or n.macs <= max_macs}
        means = {indices: sum(n.accuracies) / 2 for indices, n in kept.items()}
        assert table.best(max_macs).accuracy == max(means.values())
        for i in kept.keys() & networks:
            regret = max(means.values()) - means[i]
            assert table.regret(i, max_macs) == pytest.approx(regret)
            better = sum(mean > means[i] for mean in means.values())
            assert table.rank(i, max_macs) == better + 1


def a_run(table: GroundTruth, rank: int, variant: str = "diversity", **more) -> dict:
    """A record whose found network has a rank."""
    network = table.ranked()[rank - 1]
    sample = list(table)[::40]
    return dict(
        variant=variant, seed=more.pop("seed", 0), macs=network.macs, max_macs=None,
        found=list(network.indices), mean_pairwise_hamming=0.25, distinct=1,
        archive=[dict(indices=list(network.indices), accuracy=0.5, macs=1)],
        inherited=[[list(i), 0.1 + table[i].accuracy / 2] for i in sample],
        clips=7 * VIEWS, path_clips=10.0 * VIEWS, forward_clips=3, wall_s=2.0, **more,
    )  # fmt: skip


def test_summary_of_runs(table):
    ranks = (1, 5, 9)
    runs = [a_run(table, rank, seed=seed) for seed, rank in enumerate(ranks)]
    result = judge_all(runs, table, baseline_seeds=20)
    regrets = [judge(run, table)["regret"] for run in runs]
    row = result["rows"]["diversity"]
    assert row["runs"] == 3
    assert row["regret"]["mean"] == pytest.approx(np.mean(regrets))
    error = np.std(regrets, ddof=1) / 3**0.5
    assert row["regret"]["standard_error"] == pytest.approx(error)
    # Compute of 7 trainings gives the baselines 7 trainings; all of it, paths of 10 and
    # a third of 3 clips forward, a little more than 10.
    for name in ("random", "evolution"):
        for kind, trainings in (("", 7), (", all compute", 11)):
            baseline = result["rows"][f"{name}{kind}"]
            assert baseline["clips"]["mean"] == trainings * VIEWS
    cells = f"| diversity | 3 | {np.mean(regrets):.2f} ± {error:.2f} |"
    assert cells in markdown(result)


# -- searches -----------------------------------------------------------------


def test_a_view_is_consecutive_frames():
    # Clip n holds the value 20 n + f in frame f.
    values = (20 * torch.arange(3)[:, None] + torch.arange(12)).to(torch.uint8)
    frames = values[:, :, None, None, None].expand(-1, -1, 4, 4, 3).contiguous()
    clips = MotionClips(frames, torch.arange(3), clip_len=8)
    middle = clips.views([1])
    assert middle.shape == (1, 3, 8, 4, 4)
    assert middle[0, 0, :, 0, 0].tolist() == list(range(22, 30))
    drawn = clips.views([0, 2, 0], seeds=[0, 4, 6])
    assert [v[0, 0, 0, 0].item() for v in drawn] == [0, 44, 1]


class ToySource:
    """The clips of the toy search, which are float and need no decoding."""

    def __init__(self, length: int) -> None:
        self.dataset = searching.ToyClips(length, noise=0.0)
        self.labels = torch.arange(length) % searching.NUM_CLASSES

    def views(self, indices, seeds=None):
        return torch.cat([self.dataset.clips[int(index)] for index in indices])


ALL_OPTIONS = dict(num_ranked=2, largest_every=2, alpha_weight=1.0)
ALL_OPTIONS["cost"] = dict(kind="flops", budget=30_000)


@pytest.mark.parametrize("options", [{}, ALL_OPTIONS])
def test_same_search_as_the_loop(tmp_path, options):
    changes: dict = dict(
        train_dataloader=dict(dataset=dict(noise=0.0)), train_cfg=options
    )
    if options:
        optimizer = dict(_delete_=True, type="MuonAdamW", lr=0.01, muon_lr=0.05)
        changes["optim_wrapper"] = dict(weights=dict(optimizer=optimizer))
    # Copies: merging takes _delete_ out of what it is given.
    runner = searching.build_search(tmp_path, **copy.deepcopy(changes))
    cfg = searching.search_config(tmp_path, **copy.deepcopy(changes))
    memory = MemorySearch(cfg, ToySource(25), ToySource(16), seed=0)
    ours = memory.search
    runner.model.init_weights()
    runner.model._is_init = True  # not a second time when training starts
    ours.model.load_state_dict(runner.model.state_dict())
    runner.train()
    memory.run()
    theirs = runner.train_loop.search
    found = ours.model.state_dict()
    for name, expected in theirs.model.state_dict().items():
        assert torch.equal(found[name], expected), name
    assert ours.archive.to_dict() == theirs.archive.to_dict()
    assert ours.num_alpha_steps == theirs.num_alpha_steps > 0
    assert all(max(map(abs, row)) > 0 for row in ours.alphas)
    # 2 cycles, and at the end the first genotype again and the most probable networks
    # that are not archived; each on 2 batches of 4 to calibrate and on 16 clips.
    evaluations = 2 * options.get("num_ranked", 1) + 1
    archived = {entry.blocks for entry in ours.archive.entries}
    likeliest = ours.selection.derive(log_probabilities(ours.alphas))
    evaluations += sum(ours.space.blocks(n) not in archived for n in likeliest)
    assert memory.forward_clips == evaluations * (2 * 4 + 16)
