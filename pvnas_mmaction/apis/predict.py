# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A trained network, and how a clip is made for it, for :mod:`.onnx_predict`."""

from pathlib import Path

import numpy as np
import torch

from ..models.recognizers import view_of
from ..profiling.clock import check_device
from ..space.checks import wrong
from .config_checks import check_one_network
from .config_files import load_config, make_portable
from .export import labels_of, load_classifier, preprocessing_of
from .onnx_predict import Deployed, read_description


def load_trained(source: str, checkpoint: str | None, device: str) -> Deployed:
    """A network that PyTorch runs.

    Args:
        source: A config, or a folder that ``pvnas fit`` wrote.
        checkpoint: Checkpoint file; None for a folder.
        device: ``"cpu"`` or ``"cuda"``.
    """
    where = check_device(device)
    folder = Path(source)
    if checkpoint is None and not (folder / "checkpoint.pth").is_file():
        expected = "a folder that pvnas fit wrote, or CONFIG CHECKPOINT"
        raise wrong("FOLDER", expected, f"{folder}, without a checkpoint.pth")
    cfg = load_config(source if checkpoint else str(folder / "config.py"))
    check_one_network(cfg)
    make_portable(cfg)
    preprocessing = preprocessing_of(cfg)
    weights = checkpoint or str(folder / "checkpoint.pth")
    classifier = load_classifier(cfg, weights, view_of(cfg).shape).to(where)
    labels = labels_of(cfg) if checkpoint else read_description(folder)[0]

    @torch.inference_mode()
    def network(clips: np.ndarray) -> np.ndarray:
        return classifier(torch.from_numpy(clips).to(where)).float().cpu().numpy()

    return Deployed(network, labels, preprocessing)
