"""The schedule in a real runner: rates as full lists, restarts, logs, refusals."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from searching import NO_VALIDATION, build_search, search_config

from pvnas_mmaction.apis.run_checks import RunCheckHook
from pvnas_mmaction.engine.checkpoints import load_search_checkpoint

COS_6, COS_9, COS_12, COS_18 = (
    [(1 + math.cos(math.pi * k / n)) / 2 for k in range(n)] for n in (6, 9, 12, 18)
)
# 18 steps; a peak of 0.05, a floor of a hundredth, and a third of each cycle to rest
WEIGHTS_LR = dict(
    constant=[0.05] * 18,
    cosine=[0.0005 + 0.0495 * c for c in COS_18],
    cyclic=[0.0005 + 0.0495 * c for c in COS_9 * 2],
    diversity=[0.0005 + 0.0495 * c for c in COS_9 * 2],
)
ALPHAS_LR = dict(
    constant=[0] * 6 + [0.1] * 12,
    cosine=[0] * 6 + [0.1] * 12,
    cyclic=([0] * 3 + [0.1] * 6) * 2,
)
PLAN = dict(
    constant=[1] * 6 + [0.1 + 0.9 * c for c in COS_12],
    cosine=[1] * 6 + [0.1 + 0.9 * c for c in COS_12],
    # The first cycle starts at 1, where uniform alphas are.
    cyclic=[*[1] * 3, *[0.1 + 0.9 * c for c in COS_6],
            *[0.95] * 3, *[0.1 + 0.85 * c for c in COS_6]],
)  # fmt: skip
PLAN["diversity"] = PLAN["cyclic"]


class Recorder(Hook):
    """Writes down what the optimisers and the alphas are, step by step."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.rates: dict[str, list] = {"weights": [], "alphas": []}
        self.diversity: list[float] = []
        self.moments: list[int] = []
        self.gradients: list[int] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for name, rates in self.rates.items():
            groups = runner.optim_wrapper[name].optimizer.param_groups
            rates.append([group["lr"] for group in groups])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        supernet = runner.model.backbone
        p = torch.softmax(supernet.alphas.detach().double(), 1)
        # D(p), with the sum over pairs of candidates written out; each layer has 4.
        differ = 1 - torch.eye(4, dtype=p.dtype)
        pairs = torch.einsum("li,ij,lj->l", p, differ, p)
        self.diversity.append(float(pairs.mean()) / (1 - 1 / 4))
        self.moments.append(len(runner.optim_wrapper["alphas"].optimizer.state))
        self.gradients.append(supernet.alphas.grad is not None)


def run(work_dir: Path, hook: dict, **changes) -> tuple[Runner, Recorder, list[dict]]:
    """Run a search; gives the runner, a recorder, and what was logged at each step."""
    hooks = [dict(type="LRDiversityHook", **hook)]
    runner = build_search(work_dir, custom_hooks=hooks, **NO_VALIDATION, **changes)
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    logged = [json.loads(line) for line in path.read_text().splitlines()]
    return runner, recorder, logged


def column(rows: list[dict], name: str) -> list[float]:
    return [row[name] for row in rows]


@pytest.mark.parametrize("mode", list(WEIGHTS_LR))
def test_learning_rates_replayed_through_a_runner(tmp_path, mode):
    hook = dict(mode=mode, num_cycles=2, min_distance=0.0, settle=0.0)
    hook |= dict(kappa=6.0, damping=2.0)
    runner, recorder, logged = run(tmp_path, hook)
    expected = WEIGHTS_LR[mode]
    rates = {name: [r[0] for r in rows] for name, rows in recorder.rates.items()}
    assert rates["weights"] == pytest.approx(expected, abs=1e-6)
    assert column(logged, "planned_diversity") == pytest.approx(PLAN[mode], abs=1e-5)
    if mode == "diversity":
        # log g <- log g - kappa / 6 * e - damping * (e - last e), e = D* - D, at each
        # of a cycle's 6 alpha steps, from the mean of the cycle before
        expected, gains, logs = [], [], [0.0]
        for step, (plan, found) in enumerate(
            zip(PLAN[mode], column(logged, "diversity"), strict=True)
        ):
            if step % 9 == 0:
                log_gain, last, logs = sum(logs) / len(logs), 0.0, []
            gains.append(math.exp(log_gain))
            expected.append(0.1 * gains[-1] if step % 9 >= 3 else 0)
            if step % 9 >= 3:
                error = plan - found
                log_gain -= error + 2 * (error - last)
                last = error
                logs.append(log_gain)
        assert column(logged, "gain") == pytest.approx(gains, rel=1e-4)
        assert len(set(gains)) > 6
    else:
        expected = ALPHAS_LR[mode]
        assert set(column(logged, "gain")) == {1}
    assert rates["alphas"] == pytest.approx(expected, rel=1e-4)
    for name in ("weights", "alphas"):
        assert column(logged, f"{name}_lr") == rates[name]
    cycles = 2 if mode in ("cyclic", "diversity") else 1
    assert len(runner.train_loop.search.archive.entries) == cycles


def test_what_is_logged_is_true_of_the_alphas(tmp_path):
    runner, recorder, logged = run(tmp_path, dict(num_cycles=1))
    assert column(logged, "diversity") == pytest.approx(recorder.diversity, abs=1e-6)
    search, last = runner.train_loop.search, logged[-1]
    p = [torch.softmax(a.detach().double(), 0) for a in search.supernet.alphas]
    entropies = [-(row * row.log()).sum() / math.log(len(row)) for row in p]
    assert last["entropy"] == pytest.approx(float(sum(entropies)) / 3, abs=1e-6)
    assert last["argmax_share"] == pytest.approx(float(sum(r.max() for r in p)) / 3)
    best = [c[int(r.argmax())] for c, r in zip(search.space.candidates, p, strict=True)]
    assert last["num_skips"] == best.count("skip")
    # Mean cost of networks drawn from p, against the expectation: 3 layers of 4.
    generator = torch.Generator().manual_seed(0)
    draws = [row.multinomial(4000, True, generator=generator).tolist() for row in p]
    table = search.tables["flops"]
    costs = [table.cost(network) for network in zip(*draws, strict=True)]
    assert last["expected_cost"] == pytest.approx(sum(costs) / len(costs), rel=0.02)


def test_a_restart_brings_the_diversity_back_and_clears_the_moments(tmp_path):
    # Of the six alpha steps of each cycle the fifth moves them, the sixth is left over.
    alphas = dict(optimizer=dict(type="Adam", lr=3.0), accumulative_counts=5)
    hook, wrappers = dict(num_cycles=2, diversity_start=0.8), dict(alphas=alphas)
    _, recorder, logged = run(tmp_path, hook, optim_wrapper=wrappers)
    before = column(logged, "diversity")
    assert before[8] < 0.75
    # The scalars tell of the step, the alphas have restarted after it.
    assert recorder.diversity[8] == pytest.approx(0.8, abs=1e-6)
    assert recorder.diversity[9:12] == [recorder.diversity[8]] * 3
    # From each end of a cycle on no moments and no gradients are left of it.
    with_moments = [step for step, count in enumerate(recorder.moments) if count]
    assert with_moments == [7, 16, 17]
    with_gradients = [step for step, count in enumerate(recorder.gradients) if count]
    assert with_gradients == [3, 4, 5, 6, 12, 13, 14, 15, 17]


def test_auto_scale_lr_holds_for_the_weights_alone(tmp_path):
    # The stem comes first, and has a rate of its own.
    optim = dict(paramwise_cfg=dict(custom_keys={"stem": dict(lr_mult=0.5)}))
    scale = dict(enable=True, base_batch_size=16)
    _, recorder, logged = run(
        tmp_path, dict(mode="constant"), auto_scale_lr=scale, optim_wrapper=optim
    )
    assert recorder.rates["weights"] == [pytest.approx([0.00625, 0.0125])] * 18
    assert recorder.rates["alphas"] == [[lr] for lr in ALPHAS_LR["constant"]]
    assert column(logged, "weights_lr") == pytest.approx([0.0125] * 18)
    assert column(logged, "weights.base_lr") == pytest.approx([0.0125] * 18)


OURS = dict(type="LRDiversityHook")
REFUSED = [
    (dict(param_scheduler=dict(type="LinearLR")), "param_scheduler: expected none"),
    (dict(custom_hooks=[OURS | dict(mode="linear")]), "mode: expected .* got 'linear'"),
    (dict(custom_hooks=[]), "custom_hooks: expected LRDiversityHook, .*, got none"),
    (dict(activation_checkpointing="backbone"), "checkpointing: expected none, got"),
    (dict(compile=True), "compile: expected none, got .*True"),
    (dict(efficient_conv_bn_eval="backbone"), "conv_bn_eval: expected none, got"),
    (dict(default_hooks=dict(checkpoint=dict(save_optimizer=False))),
     "checkpoint.save_optimizer: expected True, got False"),
    *((dict(optim_wrapper={part: dict(optimizer=dict(lr=0.0))}),
       rf"{part}_lr: expected a number above 0.*, got 0\.0")
      for part in ("weights", "alphas")),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_configs_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build_search(tmp_path, **changes).train()


ALONE = [dict(type="LRDiversityHook", num_cycles=2)]
EARLY_STOPPING = dict(type="EarlyStoppingHook", monitor="acc/top1", patience=1)
NEXT_TO_A_SEARCH = dict(
    ema=dict(custom_hooks=[*ALONE, dict(type="EMAHook", momentum=0.5)]),
    early_stopping=dict(custom_hooks=[*ALONE, EARLY_STOPPING]),
    drawing=dict(
        custom_hooks=ALONE,
        default_hooks=dict(visualization=dict(type="VisualizationHook", enable=True)),
        visualizer=dict(type="ActionVisualizer", vis_backends=[]),
    ),
    save_best=dict(
        custom_hooks=ALONE, default_hooks=dict(checkpoint=dict(save_best="auto"))
    ),
)


@pytest.fixture(scope="module")
def searched_alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    build_search(folder, custom_hooks=ALONE).train()
    return folder


@pytest.mark.parametrize("name", NEXT_TO_A_SEARCH)
def test_a_search_next_to_a_hook_ends_in_the_same_genotype(
    tmp_path, searched_alone, name
):
    """Networks are judged without its knowing; of EMA's averages the search knows
    nothing, nor does what is derived from its checkpoints."""
    changes = NEXT_TO_A_SEARCH[name]
    build_search(tmp_path, **copy.deepcopy(changes)).train()
    for file in ("genotype.json", "archive.json"):
        found = (tmp_path / "search" / file).read_bytes()
        assert found == (searched_alone / "search" / file).read_bytes()
    ours, theirs = map(load_search_checkpoint, (tmp_path, searched_alone))
    assert ours.alphas == theirs.alphas
    for key, value in theirs.state.items():
        assert torch.equal(ours.state[key], value)
    # And it goes on.
    build_search(tmp_path, **copy.deepcopy(changes), resume=True).train()


def test_weights_of_a_search_come_without_its_decision(tmp_path):
    """A search that starts from another one's weights starts as diverse as any."""
    alphas = dict(alphas=dict(optimizer=dict(type="Adam", lr=1.5)))
    run(tmp_path / "first", dict(num_cycles=1), optim_wrapper=alphas)
    changes = dict(load_from=str(tmp_path / "first/epoch_5.pth"), optim_wrapper=alphas)
    hook = dict(num_cycles=1, diversity_start=0.9)
    _, recorder, _ = run(tmp_path / "second", hook, **changes)
    assert recorder.diversity[:6] == pytest.approx([0.9] * 6, abs=1e-6)


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path):
    """Warm-up sees no alpha: nothing else would stop it before all that is kept is
    lost."""

    class Poison(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 4:
                with torch.no_grad():
                    runner.train_loop.model.cls_head.fc_cls.weight[0, 0] = math.nan

    hooks = [dict(type="LRDiversityHook", num_cycles=1)]
    runner = build_search(tmp_path, custom_hooks=hooks)
    runner.register_hook(Poison(), "LOWEST")
    with pytest.raises(ValueError, match=r"step 6, .*weight: expected finite"):
        runner.train()
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]


def test_a_search_config_can_be_tested(tmp_path, monkeypatch):
    config = search_config(tmp_path, test_cfg=dict(type="TestLoop"), load_from=None)
    config.test_dataloader = config.val_dataloader
    config.test_evaluator = config.val_evaluator
    runner = Runner.from_cfg(config)
    said = []
    monkeypatch.setattr(runner.logger, "warning", said.append)
    runner.register_hook(RunCheckHook(resumed=False, tested=True))
    assert 0 <= runner.test()["acc/top1"] <= 1
    assert "tested as its most probable network" in said[0]
