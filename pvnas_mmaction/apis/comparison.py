"""What a search was worth: its networks next to a hand-designed one, on test clips."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..report.predictions import load_scores

REFERENCE = "reference"
DRAWS = 10_000
SAME_COST = 1.01


def compare(rows: Mapping[str, dict[str, Any]], scores: Mapping[str, Path]) -> dict:
    """Which network is exported: the searched one of best validation accuracy, or
    the hand-designed one where it is better on the test clips, or as good and cheaper:
    where costs are within 1 %, the one of better test accuracy.
    Rows have ``cost`` and ``validation``, and get ``test`` from dumps of scores."""
    right = {}
    for name, row in rows.items():
        pairs = load_scores(scores[name])
        right[name] = np.array([truth == int(s.argmax()) for truth, s in pairs])
        row["test"] = float(right[name].mean())
    searched = max(
        (name for name in rows if name != REFERENCE),
        key=lambda name: (rows[name]["validation"], -rows[name]["cost"]),
    )
    difference = right[searched].astype(float) - right[REFERENCE]
    low, high = bootstrap_interval(difference)
    better = searched if low > 0 else REFERENCE if high < 0 else None
    cheap, dear = sorted((searched, REFERENCE), key=lambda name: rows[name]["cost"])
    choice, quality = cheap, "cheaper"
    if rows[dear]["cost"] <= SAME_COST * rows[cheap]["cost"] and difference.sum():
        choice, quality = searched if difference.mean() > 0 else REFERENCE, "better"
    return dict(
        chosen=better or choice, quality=quality, searched=searched,
        networks=dict(rows), difference=float(difference.mean()), interval=[low, high],
        as_good=better is None, num_test_clips=len(difference),
    )  # fmt: skip


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, by percentiles of resampled means (Efron, 1979)."""
    generator = np.random.default_rng(0)
    draws = generator.choice(differences, (DRAWS, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def summary(result: dict[str, Any], show: Callable[[float], str], out: Path) -> str:
    lines = ["", "| network | cost | validation | test |", "| --- | --- | --- | --- |"]
    for name, row in result["networks"].items():
        cells = [f"**{name}**" if name == result["chosen"] else name]
        cells += [show(row["cost"])]
        cells += [f"{row[key]:.1%}" for key in ("validation", "test")]
        lines.append(f"| {' | '.join(cells)} |")
    low, high = result["interval"]
    verdict = f"so {result['chosen']} is exported"
    if result["as_good"]:
        verdict = f"no clear difference, so the {result['quality']} one, "
        verdict += f"{result['chosen']}, is exported"
    folder = shlex.quote(str(out))
    lines.append(
        f"\n{result['searched']} minus the hand-designed {REFERENCE}: "
        f"{100 * result['difference']:+.1f} points on {result['num_test_clips']} test "
        f"clips (95 % interval {100 * low:+.1f} to {100 * high:+.1f}): {verdict}."
    )
    if ms := result.get("measured_ms"):
        budget = result["budget"]
        lines.append(f"model.onnx takes {show(ms)} here; the budget is {show(budget)}.")
        if not 0.9 < ms / result["networks"][result["chosen"]]["cost"] < 1.1:
            text = "That is far from its cost above: other programs ran then, or now."
            lines.append(text)
    lines += [
        "\nNext:",
        f"  pvnas predict {folder} VIDEO           # classes of a new video",
        f"  pvnas predict {folder} VIDEO --onnx    # the same without PyTorch",
        f"  pvnas test {folder}/config.py {folder}/checkpoint.pth",
        f"  {folder}/report.html                   # for a browser",
    ]
    return "\n".join(lines)
