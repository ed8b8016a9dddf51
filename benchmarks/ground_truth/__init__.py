"""Every network of the search space ``tiny``, trained from scratch on motion clips.

from benchmarks.ground_truth import load

table = load()
table.best().blocks
"""

import json
import lzma
from pathlib import Path

from pvnas_mmaction.space.checks import wrong

from .table import GroundTruth, Network

__all__ = ["GroundTruth", "Network", "load"]

DEFAULT = Path(__file__).resolve().parent / "tiny.json.xz"


def load(path: str | Path | None = None) -> GroundTruth:
    """Read the table.

    The file is JSON, compressed with xz::

        {"format_version": 2,
         "settings": {"space": {...}, "clips": {...}, "recipe": {...},
                      "val_clips": 256, "views_per_training": 6144},
         "made": {"command": "...", "date": "2026-01-31", "machine": {...}},
         "seeds": [0, 1],
         "networks": {"mb_t1_k3_e2 skip mb_t5_k3_e2 mb_t1_k3_e4":
                      {"accuracies": [0.711, 0.695],
                       "recalls": [[0.875, 0.75, ...], [0.625, 0.875, ...]],
                       "macs": 5701632, "params": 21848},
                      ...}}

    ``settings.space`` (config data)
        The search space; a network's key is its block specs, one per layer.
    ``settings.clips``
        What the clips were rendered with: the file ``manifest.json`` of their folder.
    ``settings.recipe``
        How every network was trained; the fields of
        :class:`benchmarks.ground_truth.recipe.Recipe`.
    ``settings.val_clips``
        Number of validation clips: accuracies are multiples of one over it.
    ``settings.views_per_training``
        Clips that one training sees forward and backward.
    ``made``
        Command, date and machine of the trainings, for the record.
    ``seeds``
        Seeds of the trainings (initial weights, order of the clips).
    ``accuracies``
        Top-1 on the validation clips after the last epoch, a share in [0, 1], one for
        each seed in order; null where that seed was not trained. The first seeds
        trained all networks, further ones the best alone.
    ``recalls``
        The same on the clips of each class, in the order of ``settings.clips.classes``;
        an empty list where it is not known.
    ``macs``, ``params``
        Multiply-accumulates of one view with stem and classifier, and number of
        learnable parameters.

    A table may be partial: its networks are then a random sample of the space, and
    :attr:`GroundTruth.is_complete` is False.

    Args:
        path: A file that ``train.py pack`` wrote. Default None: ``tiny.json.xz``, which
            is part of the project.

    Returns:
        The table: networks, their accuracies, ranks and regrets.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no table.

    Example:
        >>> table = load()  # doctest: +SKIP
        >>> network = table[(0, 4, 3, 2)]  # candidate index of each layer
        >>> network.accuracy, network.macs
        >>> table.regret((0, 4, 3, 2))  # best of the table minus this, a share
        >>> table.rank((0, 4, 3, 2))  # 1 is the best
    """
    path = DEFAULT if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; write it with benchmarks/ground_truth/train.py "
            "train, then pack"
        )
    try:
        data = json.loads(lzma.decompress(path.read_bytes()))
    except (lzma.LZMAError, ValueError) as error:
        raise wrong(str(path), "JSON compressed with xz", str(error)) from error
    return GroundTruth.from_data(data, where=str(path))
