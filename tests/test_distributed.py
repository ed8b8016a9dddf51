"""Several processes: one path, the same alphas, gradients of the whole batch."""

import copy
import json
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from searching import (
    NO_VALIDATION,
    build_toy_model,
    make_batch,
    run_ranks,
    run_search,
    search_config,
)
from tool_processes import TOOLS, free_port, run_process
from torch import nn

from pvnas_mmaction.engine import search_files, sync_statistics_hook
from pvnas_mmaction.models.relaxation import Choice
from pvnas_mmaction.search.distributed import (
    WEIGHTS_EVERY,
    check_ranks_agree,
    from_rank_0,
)
from pvnas_mmaction.search.steps import Steps

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="MMEngine would put both processes on one GPU"
)


def test_only_buffers_that_checkpoints_hold_are_averaged(monkeypatch) -> None:
    found: list = []
    reduce = lambda params, op: found.extend(params)  # noqa: E731
    monkeypatch.setattr(sync_statistics_hook, "all_reduce_params", reduce)
    model, hook = nn.BatchNorm1d(2), sync_statistics_hook.SyncStatisticsHook()
    model.register_buffer("mean", torch.zeros(2), persistent=False)
    hook.distributed = True
    hook.after_train_epoch(SimpleNamespace(model=model))
    assert list(map(id, found)) == [*map(id, nn.BatchNorm1d.buffers(model))][:3]


# the command


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """Work directory of a search that tools/dist_train.sh has run on two processes."""
    folder = tmp_path_factory.mktemp("launched")
    config = search_config(
        folder / "work",
        custom_imports=dict(imports=["searching"], allow_failed_imports=False),
        custom_hooks=[
            dict(type="LRDiversityHook", num_cycles=2),
            dict(type="SearchHistoryHook", interval=2),
            dict(type="TraceHook"),
        ],
        train_dataloader=dict(batch_size=2),
    )
    config.pop("launcher")
    config.dump(folder / "toy.py")
    tests = str(Path(__file__).parent)
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    command = [TOOLS / "dist_train.sh", folder / "toy.py", "2"]
    run_process(*command, PORT=free_port(), PYTHONPATH=path)
    return folder / "work"


@pytest.fixture(scope="module")
def traces(launched: Path) -> list[dict]:
    files = [launched / f"trace_{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) for file in files]


def test_every_rank_draws_the_same_paths_from_the_same_alphas(traces):
    assert traces[0]["draws"] == traces[1]["draws"]
    relaxations = [draw[1] for draw in traces[0]["draws"]]
    assert relaxations == (["uniform"] * 3 + ["gumbel_st", "two_path"] * 6) * 2
    # They move at every alpha step.
    bits = [draw[3] for draw in traces[0]["draws"] if draw[1] == "two_path"]
    assert len(set(bits)) == 12


def test_ranks_read_their_share_of_the_batch_of_one_process(traces, tmp_path):
    hooks = [dict(type="LRDiversityHook", num_cycles=2), dict(type="TraceHook")]
    run_search(tmp_path, custom_hooks=hooks, **NO_VALIDATION)  # batches of 4
    alone = json.loads((tmp_path / "trace_0.json").read_text())
    for half in ("weights", "alphas"):
        parts = zip(*(trace[half] for trace in traces), alone[half], strict=True)
        for first, second, whole in parts:
            assert len(first) == len(second) == 2
            assert sorted(first + second) == sorted(whole)
        # Each epoch of three batches in an order of its own, on every rank.
        for trace in traces:
            batches = trace[half]
            epochs = [str(batches[i : i + 3]) for i in range(0, len(batches), 3)]
            assert len(set(epochs)) == len(epochs) >= 4


def test_rank_0_writes(launched):
    history = (launched / "search/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [*range(0, 18, 2), 17]
    entries = json.loads((launched / "search/archive.json").read_text())["entries"]
    assert [entry["accuracy"] is None for entry in entries] == [False, False]


# steps


def sgd(model: nn.Module, **settings):
    # Several groups of parameters.
    rates = dict(custom_keys=dict(stem=dict(lr_mult=0.5), fc_cls=dict(lr_mult=2.0)))
    config = dict(
        constructor="SearchOptimWrapperConstructor",
        paramwise_cfg=rates,
        weights=dict(optimizer=dict(type="SGD", lr=1.0), **settings),
        alphas=dict(optimizer=dict(type="SGD", lr=1.0), **settings),
    )
    return build_optim_wrapper(model, config)


def without_batch_norm() -> nn.Module:
    """A toy model whose loss on a batch is the mean over its clips."""
    model = build_toy_model(dropout_ratio=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    return model


def step_both(model: nn.Module, batch: dict, **settings) -> dict[str, torch.Tensor]:
    wrappers = sgd(model, **settings)
    steps = Steps(model, wrappers["weights"], wrappers["alphas"])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        path = steps.supernet.sample("two_path", generator)
    steps.weights_step(batch, path)
    steps.alpha_step(batch, steps.supernet.sample("two_path", generator))
    return {name: p.detach() for name, p in model.named_parameters()}


def my_share(batch: dict) -> dict:
    rank, count = dist.get_rank(), dist.get_world_size()
    return {key: value[rank::count] for key, value in batch.items()}


def test_two_ranks_step_as_one_on_the_whole_batch(tmp_path):
    model, batch = without_batch_norm(), make_batch(8)

    def rank():
        return step_both(copy.deepcopy(model), my_share(batch))

    ranks = run_ranks(tmp_path, 2, rank)
    before = dict(model.named_parameters())
    alone = step_both(copy.deepcopy(model), batch)
    for name, expected in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], expected, rtol=1e-4, atol=1e-6)
    moved = [name for name in alone if not torch.equal(alone[name], before[name])]
    assert "backbone.alphas" in moved
    assert len(moved) > 10


# staying equal


@pytest.mark.parametrize("differs", ["nothing", "alphas", "path", "weights", "later"])
def test_ranks_that_differ_are_noticed(tmp_path, differs):
    def rank():
        odd = dist.get_rank() == 1
        alphas, model = [[0.0] * 4, [0.0] * 3], build_toy_model()
        if odd and differs == "alphas":
            alphas[1][2] = torch.finfo(torch.float32).tiny
        if odd and differs in ("weights", "later"):
            with torch.no_grad():
                model.cls_head.fc_cls.weight[0, 0] += 1e-6
        last = 2 if odd and differs == "path" else 1
        step = 7 if differs == "later" else WEIGHTS_EVERY  # when weights are compared
        path = (Choice((0, 3)), Choice((last,)))
        check_ranks_agree(step, [path], alphas, model)
        return "agree"

    message = f"RuntimeError: step {WEIGHTS_EVERY}: expected the same alphas"
    for found in run_ranks(tmp_path, 3, rank):
        assert found.startswith("agree" if differs in ("nothing", "later") else message)


FAILURES = ["a weight", "a genotype", "the setting", "a clip", "a validation clip"]


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_in_one_process_ends_all(tmp_path, what):
    """With its message, and without waiting for the group's timeout."""
    odd = 0 if what in ("a weight", "a genotype", "the setting") else 1

    def rank():
        config = search_config(tmp_path / "work", launcher="pytorch")
        runner = Runner.from_cfg(config)
        if dist.get_rank() == odd or what == "a weight":
            spoil(runner, what)
        runner.train()

    def spoil(runner, what):
        loop = runner.train_loop
        if what == "a weight":
            step = loop.run_iter

            def poisoned(*args):
                with torch.no_grad():
                    loop.model.cls_head.fc_cls.weight[0, 0] = math.nan
                step(*args)

            loop.run_iter = poisoned
        elif what == "a genotype":
            search_files.save_genotype = fail
        elif what == "the setting":
            search_files.write_json = fail
        elif what == "a clip":
            loop.data.weights_loader.collate_fn = fail
        else:
            runner.val_loop.dataloader.collate_fn = fail

    def fail(*_, **__):
        raise OSError("no space left")

    start = time.monotonic()
    found = run_ranks(tmp_path, 2, rank)
    assert time.monotonic() - start < 50
    message = "finite weights" if what == "a weight" else "no space left"
    assert all(message in text for text in found), found
    other = found[1 - odd]
    assert other.startswith(f"OtherRankError: process {odd}: "), found


def test_seeds_that_differ_by_rank(tmp_path):
    """MMAction2's --diff-rank-seed: one split and one path all the same."""

    def rank():
        config = search_config(
            tmp_path / "work",
            launcher="pytorch",
            randomness=dict(seed=5, diff_rank_seed=True),
            train_cfg=dict(max_epochs=4),
            train_dataloader=dict(batch_size=2),
            **NO_VALIDATION,
        )
        runner = Runner.from_cfg(config)
        runner.train()
        loop = runner.train_loop
        state = runner.model.module.state_dict()
        seeds = runner.seed, from_rank_0(lambda: runner.seed), torch.initial_seed()
        return *seeds, loop.data.alpha_half, state

    first, second = run_ranks(tmp_path, 2, rank)
    assert (first[0], second[0]) == (5, 6)
    assert (first[1], second[1]) == (5, 5)
    # That of the last step's dropout, which each rank draws for its own clips.
    assert first[2] != second[2]
    assert first[3] == second[3]
    for name, value in first[4].items():
        if "running" not in name:  # each rank's own batches
            assert torch.equal(value, second[4][name]), name


def test_killed_and_resumed_on_two_processes(tmp_path):
    def search(folder: str, kill_at: list[int]):
        config = search_config(
            tmp_path / folder,
            launcher="pytorch",
            resume=True,
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=3)),
            custom_hooks=[
                dict(type="LRDiversityHook", num_cycles=2),
                dict(type="KillHook", steps=kill_at),
            ],
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(weights=dict(accumulative_counts=2)),
        )
        runner = Runner.from_cfg(config)
        runner.train()
        parameters = runner.model.module.named_parameters()
        return {name: parameter.detach() for name, parameter in parameters}

    whole = run_ranks(tmp_path, 2, search, "whole", [])
    assert run_ranks(tmp_path / "dead", 2, search, "killed", [10]) == [None, None]
    resumed = run_ranks(tmp_path, 2, search, "killed", [10])
    for name, value in whole[0].items():
        for other in (whole[1], *resumed):
            assert torch.equal(value, other[name]), name
    for name in ("archive.json", "genotype.json", "split.json"):
        ours, theirs = (tmp_path / run / "search" / name for run in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
