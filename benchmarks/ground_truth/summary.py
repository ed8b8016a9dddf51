"""What a ground truth table says, in a few lines and a plot."""

import itertools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from scipy.stats import spearmanr

from pvnas_mmaction.space.layout import BlockSpec

from .table import GroundTruth, Network

MIN_GAP = 0.08
MIN_CORRELATION = 0.8
MAX_BEST = 0.97


def seed_correlations(
    table: GroundTruth, networks: Iterable[Network] | None = None
) -> dict[tuple[int, int], float]:
    """Spearman's rank correlation between the accuracies of each pair of main seeds,
    over the networks that were trained with both; NaN where there are fewer than
    three.

    Args:
        table: The table.
        networks: Some of its networks. Default None: all.
    """
    networks = list(table.values() if networks is None else networks)
    found = {}
    for (a, i), (b, j) in itertools.combinations(table.main_seeds.items(), 2):
        pairs = [
            (network.accuracies[i], network.accuracies[j])
            for network in networks
            if network.accuracies[i] is not None and network.accuracies[j] is not None
        ]
        enough = len(pairs) > 2
        found[a, b] = (
            float(spearmanr(*zip(*pairs, strict=True)).statistic)
            if enough
            else float("nan")
        )
    return found


def deviation_of_one_training(networks: Iterable[Network]) -> float:
    """Standard deviation of the accuracy of one training about its network's mean, a
    share: the square root of the networks' mean variance (with n - 1); NaN where none
    was trained twice."""
    trained = [network.trained for network in networks]
    variances = [statistics.variance(group) for group in trained if len(group) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else math.nan


def summarise(table: GroundTruth) -> str:
    """Number of networks, best, median, their gap and the seeds' correlation, with
    whether the table is informative enough to judge a search by."""
    accuracies = [network.accuracy for network in table.values()]
    best, median = table.best(), statistics.median(accuracies)
    gap = best.accuracy - median
    whole = "complete" if table.is_complete else "PARTIAL, a random sample"
    lines = [
        f"networks      {len(table)} of {table.space.size} ({whole}), seeds "
        f"{list(table.main_seeds)}",
        f"chance        {1 / len(table.settings['clips']['classes']):.4f}, "
        f"{table.settings['val_clips']} validation clips",
        f"best          {best.accuracy:.4f} ({' '.join(best.blocks)}, "
        f"{best.macs / 1e6:.2f} M MACs); {_verdict(best.accuracy < MAX_BEST)} "
        f"below {MAX_BEST}",
        f"median        {median:.4f}, mean {statistics.fmean(accuracies):.4f}, worst "
        f"{min(accuracies):.4f}",
        f"one training  +- {deviation_of_one_training(table.values()):.4f}",
        f"best - median {gap:.4f}; {_verdict(gap >= MIN_GAP)} at least {MIN_GAP}",
    ]
    further = [seed for seed in table.seeds if seed not in table.main_seeds]
    if further:
        count = sum(len(n.trained) > len(table.main_seeds) for n in table.values())
        lines.append(f"refined       {count} networks with the seeds {further} as well")
    for (a, b), value in seed_correlations(table).items():
        lines.append(
            f"Spearman      {value:.4f} between seeds {a} and {b}; "
            f"{_verdict(value >= MIN_CORRELATION)} at least {MIN_CORRELATION}"
        )
    lines += _by_first_layer(table)
    still = [n.accuracy for n in table.values() if num_temporal(n) == 0]
    if still:
        lines.append(
            f"no motion     {len(still)} networks without an operation over time: mean "
            f"{statistics.fmean(still):.4f}, best {max(still):.4f}"
        )
    return "\n".join(lines)


def _by_first_layer(table: GroundTruth) -> list[str]:
    ranked = table.ranked()
    quarter = {network.indices for network in ranked[: len(ranked) // 4]}
    lines = []
    for block in table.space.candidates[0]:
        members = [network for network in ranked if network.blocks[0] == block]
        if not members:
            continue
        means = [network.accuracy for network in members]
        among = sum(network.indices in quarter for network in members)
        pairs = seed_correlations(table, members).values()
        lines.append(
            f"first layer   {block}: {among} of the best {len(quarter)}, accuracies "
            f"{min(means):.4f} to {max(means):.4f}, one training +- "
            f"{deviation_of_one_training(members):.4f}, Spearman of seeds "
            f"{', '.join(f'{value:.2f}' for value in pairs) or '-'}"
        )
    return lines


def _verdict(met: bool) -> str:
    return "met:" if met else "MISSED:"


def num_temporal(network: Network) -> int:
    """How many layers of a network mix frames."""
    return sum(BlockSpec.parse(b).temporal_kernel > 1 for b in network.blocks)


def draw(table: GroundTruth, path: str | Path) -> None:
    """Plot mean accuracy against MACs, coloured by the number of layers that mix
    frames."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    depth = len(table.space.candidates)
    colours = pyplot.get_cmap("viridis", depth + 1)
    for count in range(depth + 1):
        members = [n for n in table.values() if num_temporal(n) == count]
        if not members:
            continue
        x = [n.macs / 1e6 for n in members]
        y = [100 * n.accuracy for n in members]
        axes.scatter(x, y, s=14, color=colours(count), label=str(count))
    chance = 100 / len(table.settings["clips"]["classes"])
    axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":")
    recipe = table.settings["recipe"]
    shape = f"{recipe['clip_len']}x{recipe['size']}x{recipe['size']}"
    axes.set_xlabel(f"multiply-accumulates per view of {shape} (millions)")
    axes.set_ylabel("top-1 (%), mean over seeds")
    axes.set_title(f"{len(table)} networks of `{table.space.name}` on motion clips")
    figure.legend(
        title="layers that\nmix frames", loc="outside right center", fontsize=8
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
