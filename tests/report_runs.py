"""Made-up work directories, written without the code that reads or writes real ones."""

import json
import math
import os
import random
from datetime import datetime
from pathlib import Path

FIRST = ["mb_t1_k3_e2", "mb3d_t3_k3_e2", "ts_t3_k3_e2_se"]
SECOND = ["mb_t5_k3_e2", "rb_t3_k3_e0.5"]
STAGES = [
    dict(out_channels=16, num_layers=2, spatial_stride=2, temporal_stride=1),
    dict(out_channels=24, num_layers=2, spatial_stride=2, temporal_stride=2),
]
SKELETON = dict(stem=dict(channels=8), head_channels=32, in_channels=3, stages=STAGES)
SPACE = SKELETON | dict(
    name="toy",
    stages=[
        stage | dict(candidates=[*texts, "skip"])
        for stage, texts in zip(STAGES, (FIRST, SECOND), strict=True)
    ],
)
# Candidates of each layer: skip only where the shape stays.
CANDIDATES = [FIRST, [*FIRST, "skip"], SECOND, [*SECOND, "skip"]]
NETWORKS = [
    ["ts_t3_k3_e2_se", "skip", "mb_t5_k3_e2", "skip"],
    ["mb3d_t3_k3_e2", "mb_t1_k3_e2", "rb_t3_k3_e0.5", "mb_t5_k3_e2"],
]
CONFIG = """\
custom_hooks = [
    dict(mode='diversity', num_cycles=2, type='LRDiversityHook'),
]
model = dict(backbone=dict(type='PVNASSupernet'))
"""
START = dict(
    folder="20260102_100000", step=0, host="a", pid=7, started="2026-01-02T10:00:00",
    ended="2026-01-02T12:03:04", command="python tools/train.py toy.py --seed 7",
    device="CPU", pvnas_mmaction="0.0.9", python="3.11.7", torch="2.9.0+cpu",
    mmengine="0.10.7", opencv="4.12.0",
)  # fmt: skip
RECORD = dict(
    format_version=1, state="finished", error=None, config="toy.py", seed=7,
    num_steps=240, schedule=dict(mode="diversity", num_cycles=2), starts=[START],
    data=dict(ann_file="clips/train.txt", num_weights_clips=5, num_alphas_clips=4),
)  # fmt: skip


def genotype(blocks: list[str], **provenance) -> dict:
    """A genotype file's content."""
    provenance = dict(input_shape=[3, 8, 32, 32], num_classes=4, **provenance)
    # A copy, which a test may change.
    skeleton = json.loads(json.dumps(SKELETON))
    return dict(format_version=2, space="toy", skeleton=skeleton, blocks=blocks,
                provenance=provenance)  # fmt: skip


def write_json(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def write_launch(
    work_dir: Path, name: str = "20260102_100000", scalars=(), config: str = CONFIG
) -> None:
    """A folder as MMEngine leaves it at a start; it wrote last after 2:03:04 hours."""
    folder = work_dir / name / "vis_data"
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(config, encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in scalars)
    (folder / "scalars.json").write_text(lines, encoding="utf-8")
    end = datetime.strptime(name, "%Y%m%d_%H%M%S").timestamp() + 7384
    os.utime(folder / "scalars.json", (end, end))
    (work_dir / "toy.py").write_text(CONFIG, encoding="utf-8")


def history(lines: int, seed: int) -> list[dict]:
    """Lines of two cycles whose p sharpens in each; 10 steps between two."""
    rng = random.Random(seed)
    goal = [[rng.gauss(0, 1) for _ in row] for row in CANDIDATES]
    records = []
    for i in range(2 * lines):
        cycle, u, done = i // lines, i % lines / lines, i / (2 * lines)
        weights = [[math.exp(3 * max(0.0, u - 0.3) * a) for a in row] for row in goal]
        p = [[w / sum(row) for w in row] for row in weights]
        shares = [(1 - sum(x * x for x in row)) / (1 - 1 / len(row)) for row in p]
        rests = u < 0.3
        records.append(
            dict(
                step=10 * i, epoch=i // 5, cycle=cycle, u=u, p=p,
                diversity=sum(shares) / len(shares),
                planned_diversity=0.95 if rests else 0.95 - 0.8 * (u - 0.3),
                gain=1.0 if rests else 1 + u,
                weights_lr=0.025 * (1 + math.cos(math.pi * u)),
                alphas_lr=0.0 if rests else 0.02 * (1 + u),
                entropy=0.9, argmax_share=0.4, expected_cost=1.2e6 - 1e5 * u,
                num_skips=float(round(2 * u)),
                loss=2.0 - 0.8 * done + rng.gauss(0, 0.05), alpha_loss=2.1 - 0.7 * done,
                top1_acc=0.2 + 0.5 * done, alpha_top1_acc=0.2 + 0.4 * done,
            )
        )  # fmt: skip
    return records


def write_search(
    work_dir: Path,
    accuracies: tuple[float | None, ...] = (0.3, 0.5),
    lines: int = 12,
    finished: bool = True,
    seed: int = 7,
) -> Path:
    """A search's work directory of two cycles."""
    folder = work_dir / "search"
    write_launch(work_dir, config="train_cfg = dict(type='SearchLoop')\n")
    state = "finished" if finished else "running"
    write_json(folder / "run.json", RECORD | dict(state=state, seed=seed))
    budget = dict(kind="flops", budget=1_000_000)
    about = dict(space=SPACE, input_shape=[3, 8, 32, 32], num_classes=4, budget=budget)
    write_json(folder / "space.json", about)
    text = "".join(json.dumps(record) + "\n" for record in history(lines, seed))
    (folder / "history.jsonl").write_text(text, encoding="utf-8")
    entries = []
    for cycle, (blocks, accuracy) in enumerate(zip(NETWORKS, accuracies, strict=True)):
        file = f"genotypes/cycle_{cycle + 1:02d}.json"
        write_json(folder / file, genotype(blocks, cycle=cycle))
        costs = dict(flops=900_000 + 50_000 * cycle, params=9_000 + 1_000 * cycle)
        entries.append(
            dict(cycle=cycle, step=10 * lines * (cycle + 1), blocks=blocks, costs=costs,
                 accuracy=accuracy, distance=1.0 if cycle else None, diversity=0.8,
                 planned_diversity=0.75, file=file)
        )  # fmt: skip
    archive = dict(format_version=2, final=None, entries=entries)
    write_json(folder / "archive.json", archive)
    if finished:
        write_json(folder / "genotype.json", genotype(NETWORKS[-1]))
    return work_dir


def write_training(work_dir: Path, epochs: int = 4) -> Path:
    """A training's work directory, of 5 steps an epoch, without predictions."""
    scalars = []
    for epoch in range(1, epochs + 1):
        scalars += [
            dict(lr=0.1 / step, loss=2.0 / epoch, top1_acc=0.1 * epoch, epoch=epoch,
                 iter=step, step=step)
            for step in range(5 * epoch - 4, 5 * epoch + 1)
        ]  # fmt: skip
        scalars.append({"acc/top1": 0.125 * epoch, "acc/top5": 0.9, "step": epoch})
    write_launch(work_dir, scalars=scalars)
    return work_dir
