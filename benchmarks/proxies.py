#!/usr/bin/env python
"""Zero-cost proxies judged by the ground truth table: does a score of an untrained
network tell how good it will be?

    python benchmarks/proxies.py --out benchmarks/results/proxies.json

============  ======================================================================
proxy         score of a network
============  ======================================================================
parameters    their number
MACs          multiply-accumulates
synflow       sum of |weight * gradient| with positive weights and an input of ones
              (Tanaka et al., NeurIPS 2020)
NWOT          log-determinant of how alike clips switch the ReLUs (Mellor et al.,
              ICML 2021)
ZiCo          sum over layers of log sum of mean / deviation of |gradient| over
              batches (Li et al., ICLR 2023)
AZ-NAS        sum of the log-ranks of expressivity, progressivity, trainability and
              MACs (Lee and Ham, CVPR 2024)
============  ======================================================================
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.stats import kendalltau, rankdata
from torch import Tensor, nn

from benchmarks.clips import MotionClips, read_manifest
from benchmarks.ground_truth import GroundTruth, load
from benchmarks.ground_truth.recipe import Classifier
from benchmarks.jobs import provenance
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.space.genotype import write_json

ROOT = Path(__file__).resolve().parent.parent
BATCH = 32
Batches = Sequence[tuple[Tensor, Tensor]]


def synflow(model: nn.Module, batches: Batches) -> float:
    """Evaluated with batch normalisation at rest, so that ones stay positive."""
    model.eval().double()
    for parameter in model.parameters():
        parameter.data.abs_()
    model(torch.ones_like(batches[0][0][:1]).double()).sum().backward()
    return math.log(sum((p * p.grad).sum().item() for p in model.parameters()))


def nwot(model: nn.Module, batches: Batches) -> float:
    kernel = np.zeros((BATCH, BATCH))

    def add(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        on = (output > 0).flatten(1).double()
        kernel[:] += (on @ on.T + (1 - on) @ (1 - on).T).numpy()

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(batches[0][0])
    return float(np.linalg.slogdet(kernel)[1])


def zico(model: nn.Module, batches: Batches) -> float:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv3d | nn.Linear)]
    seen: list[list[Tensor]] = [[] for _ in layers]
    for x, labels in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        for layer, gradients in zip(layers, seen, strict=True):
            gradients.append(layer.weight.grad.flatten().abs())
    score = 0.0
    for gradients in seen:
        mean, deviation = torch.stack(gradients).mean(0), torch.stack(gradients).std(0)
        moved = deviation > 0
        total = (mean[moved] / deviation[moved]).sum().item()
        score += math.log(total) if total > 0 else 0.0
    return score


def az_nas(model: nn.Module, batches: Batches) -> tuple[float, float, float]:
    """Expressivity, progressivity and trainability."""
    backbone, x = model.backbone, batches[0][0]
    blocks = [backbone.stem, *(b for b in backbone.layers if b.layout.parts)]
    expressivity, trainability = [], []
    for block in blocks:
        x = x.detach().requires_grad_()
        y = block(x)
        rows = y.detach().transpose(0, 1).flatten(1)  # (C, N * T * H * W)
        variances = torch.linalg.eigvalsh(torch.cov(rows)).clamp_min(0)
        share = variances / variances.sum()
        expressivity.append(-(share * (share + 1e-8).log()).sum().item())
        if block is not backbone.stem:
            up = torch.randint(0, 2, y.shape, dtype=y.dtype) * 2 - 1
            (down,) = torch.autograd.grad(y, x, up)
            down = nn.functional.interpolate(down, y.shape[2:])
            a, b = (g.transpose(0, 1).flatten(1) for g in (down, up))
            largest = torch.linalg.matrix_norm(a @ b.T / a.shape[1], 2).item()
            trainability.append(2 - largest - 1 / (largest + 1e-8))
        x = y
    steps = [b - a for a, b in itertools.pairwise(expressivity)]
    return sum(expressivity), min(steps), sum(trainability) / len(trainability)


MEASURED: dict[str, Callable[[nn.Module, Batches], float | tuple[float, ...]]] = {
    "synflow": synflow,
    "NWOT": nwot,
    "ZiCo": zico,
    "AZ-NAS": az_nas,
}


def combined(parts: np.ndarray) -> np.ndarray:
    """Sum of the log-ranks of (networks, scores); the best rank is the highest."""
    ranks = np.stack([rankdata(column) for column in parts.T], axis=1)
    return np.log(ranks / len(parts)).sum(axis=1)


def scores(
    table: GroundTruth, clips: MotionClips, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Scores of all networks in the table's order, and seconds per network."""
    batches = []
    for batch in clips.training_batches(BATCH, seed, 0):
        batches.append(batch)
        if len(batches) == 4:
            break
    networks = list(table.values())
    macs = np.array([n.macs for n in networks], dtype=float)
    found = {"parameters": np.array([n.params for n in networks]), "MACs": macs}
    seconds = dict.fromkeys(found, 0.0)
    for name, measure in MEASURED.items():
        started, values = time.perf_counter(), []
        for network in networks:
            torch.manual_seed(seed)
            model = Classifier(table.space, network.indices, clips.num_classes)
            values.append(measure(model, batches))
        seconds[name] = (time.perf_counter() - started) / len(networks)
        found[name] = np.array(values)
    found["AZ-NAS"] = combined(np.column_stack([found["AZ-NAS"], macs]))
    return found, seconds


def judge(table: GroundTruth, runs: Sequence[dict[str, np.ndarray]]) -> dict[str, dict]:
    """Kendall's tau and regret (points) of each proxy, one for each seed."""
    accuracies = np.array([n.accuracy for n in table.values()])
    return {
        name: dict(
            tau=[float(kendalltau(r[name], accuracies).statistic) for r in runs],
            regret=[
                100 * float(accuracies.max() - accuracies[r[name].argmax()])
                for r in runs
            ],
        )
        for name in runs[0]
    }


def markdown(result: dict) -> str:
    """One row for each proxy: means, with standard errors over seeds."""
    lines = ["| proxy | Kendall tau | regret, points | ms per network |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, row in result["rows"].items():
        cells = []
        for values in (row["tau"], row["regret"]):
            error = np.std(values, ddof=1) / math.sqrt(len(values))
            cells.append(f"{np.mean(values):.2f} ± {error:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {1000 * row['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / "data" / "motion_clips_noisy")
    add("--table", type=Path, help="default: the project's own")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = load(args.table)
    table.check_clips(read_manifest(args.data), args.data.name)
    recipe = table.settings["recipe"]
    shape = (recipe["size"], recipe["clip_len"])
    clips = MotionClips.read(args.data, "train", *shape, 1024)
    runs, times = zip(*(scores(table, clips, s) for s in args.seeds), strict=True)
    rows = judge(table, runs)
    for name, row in rows.items():
        row["seconds"] = min(t[name] for t in times)
    result = dict(provenance("benchmarks/proxies.py"), seeds=args.seeds, rows=rows)
    write_json(args.out, result)
    print(markdown(result))


if __name__ == "__main__":
    run(main)
