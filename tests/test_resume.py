"""A search that was killed and resumed ends bit for bit as one that was not."""

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import searching
import torch
from searching import NO_VALIDATION, run_forked, run_search, toy_model

from pvnas_mmaction.engine.checkpoints import load_search_checkpoint

BY_STEP = dict(by_epoch=False, interval=3)
BY_EPOCH = dict(by_epoch=True, interval=2)
# An alpha step and a weights step, each on gradients of two batches.
ACCUMULATING = dict(
    weights=dict(accumulative_counts=2), alphas=dict(accumulative_counts=2)
)
NO_SEED = dict(seed=None)
BUDGET = dict(kind="flops", budget=19000)


def arguments(
    kill_at: list[int], checkpoint: dict, before: bool = False, **changes
) -> dict:
    """Of a search that kills itself at each of some steps, once."""
    hooks = [
        dict(type="LRDiversityHook", num_cycles=2),
        dict(type="SearchHistoryHook", interval=2),
        dict(type="KillHook", steps=kill_at, before_checkpoint=before),
    ]
    default_hooks = dict(checkpoint=checkpoint)
    return dict(default_hooks=default_hooks, custom_hooks=hooks, **changes)


def last_checkpoint(work_dir: Path) -> dict:
    path = (work_dir / "last_checkpoint").read_text()
    return torch.load(path, weights_only=True)


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """A nested value as ``{"a.b.0": number or tensor}``."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {place: value}
    return {
        k: v for key, item in items for k, v in leaves(item, f"{place}.{key}").items()
    }


def search_files(work_dir: Path) -> dict[str, bytes]:
    """Content of what a search writes, but for run.json, which holds times."""
    paths = {*(work_dir / "search").rglob("*.json*")} - {work_dir / "search/run.json"}
    return {str(path.relative_to(work_dir)): path.read_bytes() for path in paths}


def assert_same_end(work_dir: Path, reference: Path) -> None:
    """Same checkpoint and same files, but for times."""
    ours, theirs = (last_checkpoint(path) for path in (work_dir, reference))
    assert ours["meta"]["iter"] == theirs["meta"]["iter"] == 18
    for part in ("state_dict", "optimizer", "pvnas_search"):
        found, expected = leaves(ours[part]), leaves(theirs[part])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name], value), name
            else:
                assert found[name] == value, name
    assert any("momentum_buffer" in name for name in leaves(ours["optimizer"]))
    assert any("exp_avg_sq" in name for name in leaves(ours["optimizer"]))
    files = search_files(reference)
    assert len(files) == 8
    assert search_files(work_dir) == files


def kill_and_resume(work_dir: Path, settings: dict, kills: int) -> None:
    """Start the search until it is done; it must die ``kills`` times."""
    for _ in range(kills):
        status = run_forked(run_search, work_dir, **settings, resume=True)
        assert status == -signal.SIGKILL
    assert run_forked(run_search, work_dir, **settings, resume=True) == 0


@pytest.mark.parametrize(
    ("kill_at", "checkpoint", "before", "optim"),
    [
        # before the first checkpoint; twice in a row; all within an epoch of 3 steps,
        # as the checkpoints are
        ([1, 4, 5, 10], dict(by_epoch=False, interval=4), False, {}),
        # a cycle's end and the last step, each with its genotype but no checkpoint yet
        ([8, 17], BY_STEP, True, {}),
        # a cycle's end and the last step, right after their checkpoints
        ([8, 17], BY_STEP, False, {}),
        # checkpoints two epochs apart
        ([7, 8, 14], BY_EPOCH, False, {}),
        # with gradients, of weights and then of alphas, that wait for a second batch
        ([4, 7], BY_STEP, False, ACCUMULATING),
        # the same in a second cycle, where the first left two of four batches over
        ([14], BY_STEP, False, dict(alphas=dict(accumulative_counts=4))),
    ],
)
def test_killed_and_resumed(tmp_path, kill_at, checkpoint, before, optim):
    changes = dict(optim_wrapper=optim, train_cfg=dict(cost=BUDGET))
    settings = arguments([], checkpoint, **changes)
    runner = run_search(tmp_path / "whole", **settings)
    assert runner.model.cls_head.dropout_ratio > 0
    settings = arguments(kill_at, checkpoint, before, **changes)
    kill_and_resume(tmp_path / "killed", settings, kills=len(kill_at))
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_killed_and_resumed_with_the_largest_network_and_a_ranking(tmp_path):
    """In the first cycle, which runs the largest network, and in the second, which
    does not: that it is the second follows from the archive in the checkpoint."""
    options = dict(cost=BUDGET, num_ranked=3, largest_every=2)
    settings = arguments([], BY_STEP, train_cfg=options)
    run_search(tmp_path / "whole", **settings)
    workers = dict(num_workers=2)  # which read ahead when the process dies
    settings = arguments([1, 9], BY_STEP, train_cfg=options, train_dataloader=workers)
    kill_and_resume(tmp_path / "killed", settings, kills=2)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("kind", ["MixupBlending", "RandomBatchAugment"])
def test_killed_and_resumed_with_a_blending_that_draws(tmp_path, kind):
    """From torch's generator or, to choose among others, from NumPy's."""
    blending = dict(type="MixupBlending", num_classes=2, alpha=1.0)
    if kind == "RandomBatchAugment":
        other = dict(type="CutmixBlending", num_classes=2, alpha=1.0)
        blending = dict(type=kind, augments=[blending, other])
    model = toy_model()
    model["data_preprocessor"]["blending"] = blending
    settings = arguments([4, 10], BY_STEP, model=model)
    run_search(tmp_path / "whole", **arguments([], BY_STEP, model=model))
    kill_and_resume(tmp_path / "killed", settings, kills=2)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_killed_and_resumed_without_a_seed_in_the_config(tmp_path):
    settings = arguments([7, 10], BY_STEP, randomness=NO_SEED)
    kill_and_resume(tmp_path / "killed", settings, kills=2)
    seed = last_checkpoint(tmp_path / "killed")["meta"]["seed"]
    settings = arguments([], BY_STEP, randomness=dict(seed=seed))
    run_search(tmp_path / "whole", **settings)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_resuming_a_finished_search_changes_nothing(tmp_path):
    run_search(tmp_path)
    before = last_checkpoint(tmp_path)["pvnas_search"]
    files = search_files(tmp_path)
    (tmp_path / "search/genotype.json").unlink()  # killed right before this one
    run_search(tmp_path, resume=True)
    assert last_checkpoint(tmp_path)["pvnas_search"] == before
    assert search_files(tmp_path) == files


def test_a_checkpoint_of_no_search_or_another_version_is_refused(tmp_path):
    run_search(tmp_path, train_cfg=dict(max_epochs=2))
    path = tmp_path / "epoch_2.pth"
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint.pop("pvnas_search")
    for more, message in (
        ({}, "expected the state of a search"),
        (dict(pvnas_search=state | dict(format_version=1)), "version 2, got 1"),
    ):
        torch.save(checkpoint | more, path)
        with pytest.raises(ValueError, match=message):
            run_search(tmp_path, resume=True)
        with pytest.raises(ValueError, match=message):
            load_search_checkpoint(path)


OTHER_SPACE = dict(model=copy.deepcopy(toy_model()))
OTHER_SPACE["model"]["backbone"]["space"]["stages"][0]["candidates"][0] = "mb_t1_k3_e2"
FLOPS = r"\['flops', 19000\]"


@pytest.mark.parametrize(
    ("first", "changes", "message"),
    [
        # The archive would hold networks of both; under another budget, derive.
        (BUDGET, dict(train_cfg=dict(cost=dict(budget=18000))), f"{FLOPS}.*derive_"),
        (BUDGET, dict(train_cfg=dict(cost=None)), f"cost: expected None, .*{FLOPS}"),
        # Cycles would begin and end elsewhere: one may be missed, or come twice.
        (None, dict(train_cfg=dict(max_epochs=12)), "total_steps: expected 36, .* 6"),
        # As many steps, but some clips that trained the alphas would train the weights.
        (None, dict(train_cfg=dict(alpha_share=0.45)), "dataset .clips, class"),
        (None, dict(train_dataloader=dict(dataset=dict(name="x"))), "dataset .clips"),
        # It would end in neither search's result.
        (None, OTHER_SPACE, "backbone.space: expected 'toy .*, got .* with 'toy"),
        (None, dict(train_cfg=dict(relaxations=dict(alphas="softmax"))),
         "relaxations: expected .*'softmax'.*, got .*'two_path'"),
        (None, dict(optim_wrapper=dict(alphas=dict(accumulative_counts=2))),
         "LRDiversityHook: accumulated: expected 2, as in .* 1;"),
        *((None, dict(train_cfg={name: 2}), f"{name}: expected 2.* as in the config")
          for name in ("race_steps", "largest_every", "alpha_weight")),
        (None, dict(train_cfg=dict(calibration_batches=1)), "_batches: expected 1, as"),
        (None, NO_VALIDATION, "val_dataloader: expected None, as in .* 'one'"),
        (None, dict(custom_hooks=[dict(type="LRDiversityHook", num_cycles=1)]),
         "LRDiversityHook: num_cycles: expected 1, as in the config, got .* with 2"),
        (None, dict(train_cfg=dict(metric="acc/mean1")),
         "train_cfg.metric: expected 'acc/mean1', .*'acc/top1'"),
    ],
)  # fmt: skip
def test_another_search_is_refused(tmp_path, first, changes, message):
    start = dict(train_cfg=dict(max_epochs=2, cost=first))
    run_search(tmp_path, **start)
    config = searching.search_config(tmp_path, resume=True, **start)
    config.merge_from_dict(changes)
    with pytest.raises(ValueError, match=message):
        searching.Runner.from_cfg(config).train()


@pytest.mark.parametrize("validation", [{}, NO_VALIDATION])
def test_a_search_resumed_in_another_folder_has_all_its_files(tmp_path, validation):
    """Also where nothing is left to do but to write them."""
    settings = arguments([], BY_EPOCH, **validation)
    run_search(tmp_path / "whole", **settings)
    for epoch in (4, 6):
        moved = tmp_path / f"from_{epoch}"
        start = str(tmp_path / f"whole/epoch_{epoch}.pth")
        run_search(moved, **settings, resume=True, load_from=start)
        found, expected = map(search_files, (moved, tmp_path / "whole"))
        history = "search/history.jsonl"  # the steps that each of them took
        assert found.pop(history) != expected.pop(history)
        assert found == expected
        assert {Path(name).name for name in expected} >= {
            "archive.json", "cycle_01.json", "cycle_02.json"
        }  # fmt: skip


@pytest.mark.parametrize(("earlier_stops", "stop"), [([], 1), ([4], 4)])
def test_resume_goes_on_with_the_new_search(tmp_path, earlier_stops, stop):
    """Killed before or after its first checkpoint, in the folder of a search of another
    seed, which ended or was killed before its first genotype."""
    earlier = arguments(earlier_stops, BY_STEP, randomness=dict(seed=1))
    run_forked(run_search, tmp_path / "new", **earlier)
    for marker in (tmp_path / "new").glob("killed_at_*"):
        marker.unlink()
    run_search(tmp_path / "alone", **arguments([], BY_STEP))
    settings = arguments([stop], BY_STEP)
    assert run_forked(run_search, tmp_path / "new", **settings) == -signal.SIGKILL
    assert run_forked(run_search, tmp_path / "new", **settings, resume=True) == 0
    assert_same_end(tmp_path / "new", tmp_path / "alone")
