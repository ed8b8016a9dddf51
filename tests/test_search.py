"""A search without a runner: what it runs, what it reads, what it feeds back."""

from collections import Counter

import pytest
from searching import build_toy_model, make_batch, toy_optimizers, toy_search

from benchmarks.step_overhead import HostReads
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.search.steps import Steps


def run(search: Search) -> list[dict]:
    """Run a search to its end; what is noted of each step."""
    noted = []
    search.begin()
    while not search.is_done:
        search.set_rates()
        alphas_batch = None if search.rests else make_batch(seed=search.num_steps)
        search.step(make_batch(seed=100 + search.num_steps), alphas_batch)
        noted.append(search.scalars)
        if search.at_cycle_end:
            search.end_cycle()
    search.finish()
    return noted


def test_a_search_needs_no_runner():
    judged = []

    def validate(model):
        assert not model.training or judged
        judged.append([c.indices[0] for c in model.backbone._choices])
        return 0.25 * (len(judged) % 4)

    search = toy_search(
        validate=lambda model: (model.eval(), validate(model))[1],
        calibration=lambda: [make_batch()],
        num_clips=16,
        num_ranked=2,
    )
    noted = run(search)
    assert (len(noted), search.num_steps, search.num_alpha_steps) == (18, 18, 12)
    assert len(search.archive.entries) == 2 and search.archive.final is not None
    assert len(judged) >= 5
    for entry, number in zip(search.archive.entries, (9, 18), strict=True):
        assert entry.step == number
        step = noted[number - 1]
        assert entry.diversity == step["diversity"]
        assert entry.planned_diversity == step["planned_diversity"]
    assert search.model.training


@pytest.mark.parametrize("mode", ["diversity", "cosine"])
def test_the_largest_network_runs_early(monkeypatch, mode):
    ran, step = [], Steps.weights_step

    def step_seen(steps, batch, path, teacher):
        ran.append(tuple(choice.indices[0] for choice in path))
        return step(steps, batch, path, teacher)

    monkeypatch.setattr(Steps, "weights_step", step_seen)
    cost = dict(kind="params", budget=10**6)
    search = toy_search(mode=mode, largest_every=2, cost=cost)
    run(search)
    largest = search.tables["params"].most_expensive()
    # Of 18 steps only even ones of the first half are the largest network's, also
    # where the mode has one cycle.
    assert [ran[number] for number in (0, 2, 4, 6, 8)] == [largest] * 5
    assert Counter(ran)[largest] < 9


def test_what_a_step_does_not_move_is_not_fed_back():
    """A gradient scaler may skip a step, and gradients may wait for another batch."""
    model = build_toy_model()
    optimizers = toy_optimizers(model)
    search = toy_search(
        model, optimizers=optimizers, cost=dict(kind="flops", budget=10**6)
    )
    skip = [False]
    step = optimizers["alphas"].optimizer.step
    optimizers["alphas"].optimizer.step = lambda: None if skip[0] else step()
    search.begin()
    for number in range(3):
        search.set_rates()
        search.step(make_batch())
        assert (search.schedule.gain, search.penalty.weight) == (1, 0.1), number
    for skipped in (True, False, True):
        skip[0] = skipped
        before = search.schedule.gain, search.penalty.weight, search.alphas
        search.set_rates()
        search.step(make_batch(), make_batch())
        after = search.schedule.gain, search.penalty.weight, search.alphas
        assert [a == b for a, b in zip(before, after, strict=True)] == [skipped] * 3


def test_a_step_reads_little_from_the_device():
    search = toy_search(cost=dict(kind="flops", budget=10**6))
    search.begin()
    for _ in range(6):
        batches = [make_batch()] if search.rests else [make_batch(), make_batch()]
        clips = [clip for batch in batches for clip in batch["inputs"]]
        search.set_rates()
        with HostReads([*search.model.state_dict().values(), *clips]) as reads:
            search.step(*batches)
        assert 0 < reads.count <= 4
