# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Made-up work directories, written without the code that reads or writes real ones."""

from __future__ import annotations

import json
import math
import os
import random
from datetime import datetime
from pathlib import Path

SPACE = dict(
    name="toy",
    stem=dict(channels=8),
    head_channels=32,
    in_channels=3,
    stages=[
        dict(
            out_channels=16,
            num_layers=2,
            spatial_stride=2,
            temporal_stride=1,
            candidates=["mb_t1_k3_e2", "mb3d_t3_k3_e2", "ts_t3_k3_e2_se", "skip"],
        ),
        dict(
            out_channels=24,
            num_layers=2,
            spatial_stride=2,
            temporal_stride=2,
            candidates=["mb_t5_k3_e2", "rb_t3_k3_e0.5", "skip"],
        ),
    ],
)
# Candidates of each layer: skip only where the shape stays.
CANDIDATES = [
    ["mb_t1_k3_e2", "mb3d_t3_k3_e2", "ts_t3_k3_e2_se"],
    ["mb_t1_k3_e2", "mb3d_t3_k3_e2", "ts_t3_k3_e2_se", "skip"],
    ["mb_t5_k3_e2", "rb_t3_k3_e0.5"],
    ["mb_t5_k3_e2", "rb_t3_k3_e0.5", "skip"],
]
BUDGET = 1_000_000
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


def skeleton(space: dict) -> dict:
    """The part of a space that a genotype file holds."""
    stages = [
        {key: value for key, value in stage.items() if key != "candidates"}
        for stage in space["stages"]
    ]
    return dict(
        stem=space["stem"],
        head_channels=space["head_channels"],
        stages=stages,
        in_channels=space["in_channels"],
    )


def genotype(blocks: list[str], space: dict = SPACE, **provenance) -> dict:
    """A genotype file's content."""
    return dict(
        format_version=2,
        space=space["name"],
        skeleton=skeleton(space),
        blocks=blocks,
        provenance=dict(input_shape=[3, 8, 32, 32], num_classes=4, **provenance),
    )


def write_json(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def write_launch(
    work_dir: Path, name: str = "20260102_100000", scalars=(), config: str = ""
) -> Path:
    """A folder as MMEngine leaves it at a start; it wrote last after 2:03:04 hours."""
    folder = work_dir / name / "vis_data"
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(config or CONFIG, encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in scalars)
    (folder / "scalars.json").write_text(lines, encoding="utf-8")
    end = datetime.strptime(name, "%Y%m%d_%H%M%S").timestamp() + 7384
    os.utime(folder / "scalars.json", (end, end))
    (work_dir / "toy.py").write_text(CONFIG, encoding="utf-8")
    return folder.parent


def history(
    candidates: list[list[str]], cycles: int, lines: int, seed: int
) -> list[dict]:
    """Lines of a search whose p sharpens in each cycle; 10 steps between two."""
    rng = random.Random(seed)
    goal = [[rng.gauss(0, 1) for _ in row] for row in candidates]
    records = []
    for i in range(cycles * lines):
        cycle, u = i // lines, i % lines / lines
        sharp = 3 * max(0.0, u - 0.3)
        p = []
        for row in goal:
            weights = [math.exp(sharp * a) for a in row]
            p.append([w / sum(weights) for w in weights])
        shares = [
            (1 - sum(x * x for x in row)) / (1 - 1 / len(row))
            for row in p
            if len(row) > 1
        ]
        rests = u < 0.3
        records.append(
            dict(
                step=10 * i,
                epoch=i // 5,
                cycle=cycle,
                u=u,
                p=p,
                diversity=sum(shares) / len(shares),
                planned_diversity=0.95 if rests else 0.95 - 0.8 * (u - 0.3),
                gain=1.0 if rests else 1 + u,
                weights_lr=0.025 * (1 + math.cos(math.pi * u)),
                alphas_lr=0.0 if rests else 0.02 * (1 + u),
                entropy=0.9,
                argmax_share=0.4,
                expected_cost=1.2e6 - 1e5 * u,
                num_skips=float(round(2 * u)),
                loss=2.0 - 0.8 * i / (cycles * lines) + rng.gauss(0, 0.05),
                alpha_loss=2.1 - 0.7 * i / (cycles * lines),
                top1_acc=0.2 + 0.5 * i / (cycles * lines),
                alpha_top1_acc=0.2 + 0.4 * i / (cycles * lines),
            )
        )
    return records


def write_search(
    work_dir: Path,
    networks: list[list[str]] | None = None,
    accuracies: tuple[float | None, ...] = (0.3, 0.5),
    lines: int = 12,
    finished: bool = True,
    space: dict = SPACE,
    candidates: list[list[str]] | None = None,
    seed: int = 7,
) -> Path:
    """A search's work directory, one cycle for each network."""
    candidates = candidates or CANDIDATES
    networks = networks or [
        ["ts_t3_k3_e2_se", "skip", "mb_t5_k3_e2", "skip"],
        ["mb3d_t3_k3_e2", "mb_t1_k3_e2", "rb_t3_k3_e0.5", "mb_t5_k3_e2"],
    ]
    folder = work_dir / "search"
    write_launch(work_dir, config="train_cfg = dict(type='SearchLoop')\n")
    state = "finished" if finished else "running"
    write_json(folder / "run.json", RECORD | dict(state=state, seed=seed))
    write_json(
        folder / "space.json",
        dict(
            space=space,
            input_shape=[3, 8, 32, 32],
            num_classes=4,
            budget=dict(kind="flops", budget=BUDGET),
        ),
    )
    records = history(candidates, len(networks), lines, seed)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "history.jsonl").write_text(text, encoding="utf-8")
    entries = []
    for cycle, (blocks, accuracy) in enumerate(zip(networks, accuracies, strict=True)):
        file = f"genotypes/cycle_{cycle + 1:02d}.json"
        write_json(folder / file, genotype(blocks, space, cycle=cycle))
        entries.append(
            dict(
                cycle=cycle,
                step=10 * lines * (cycle + 1),
                blocks=blocks,
                costs=dict(
                    flops=900_000 + 50_000 * cycle, params=9_000 + 1_000 * cycle
                ),
                accuracy=accuracy,
                distance=None if cycle == 0 else 1.0,
                diversity=0.8,
                planned_diversity=0.75,
                file=file,
            )
        )
    summary = dict(mean_pairwise_hamming=0, distinct=0, best_accuracy=None)
    write_json(
        folder / "archive.json",
        dict(format_version=2, final=None, entries=entries, summary=summary),
    )
    if finished:
        write_json(folder / "genotype.json", genotype(networks[-1], space))
    return work_dir


def write_training(work_dir: Path, epochs: int = 4, per_epoch: int = 5) -> Path:
    """A training's work directory without predictions."""
    scalars = []
    for epoch in range(1, epochs + 1):
        for i in range(1, per_epoch + 1):
            step = (epoch - 1) * per_epoch + i
            scalars.append(
                dict(lr=0.1 / step, loss=2.0 / epoch, top1_acc=0.1 * epoch,
                     epoch=epoch, iter=step, step=step)
            )  # fmt: skip
        scalars.append({"acc/top1": 0.125 * epoch, "acc/top5": 0.9, "step": epoch})
    write_launch(work_dir, scalars=scalars)
    return work_dir
