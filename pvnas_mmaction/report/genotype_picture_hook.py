# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A picture of every network that a search finds, where its scalars are logged."""

import mmcv
from mmaction.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..search.archive import ArchiveEntry
from .drawing import network_plot
from .layers import format_count, layer_rows, percent
from .plot import figure_bytes


@HOOKS.register_module()
class GenotypePictureHook(Hook):
    """Gives the drawing of a cycle's network to the visualizer; at the end also that of
    the network that the search ends in, where the archive lacks it.

    TensorBoard and Weights & Biases show it under ``genotype`` (and
    ``genotype_final``), at the step that ended the cycle; ``LocalVisBackend`` writes
    ``<timestamp>/vis_data/vis_image/genotype_<step>.png``. In a config::

        visualizer = dict(vis_backends=[
            dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    """

    # After LRDiversityHook (NORMAL), which ends the cycle and fills the archive.
    priority = "BELOW_NORMAL"

    def before_train(self, runner: Runner) -> None:
        self._shown = len(runner.train_loop.search.archive)

    def after_train_iter(
        self, runner: Runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        archive = runner.train_loop.search.archive
        if len(archive) == self._shown:
            return
        self._shown = len(archive)
        if is_main_process():
            entry, final = archive.entries[-1], archive.final
            self._show(runner, entry, "genotype", f"Cycle {entry.cycle + 1}")
            if final and all(final.blocks != e.blocks for e in archive.entries):
                self._show(runner, final, "genotype_final", "Found at the end")

    def _show(self, runner: Runner, entry: ArchiveEntry, name: str, found: str) -> None:
        title = (
            f"{found}: {format_count(entry.macs)} MACs, {format_count(entry.params)} "
            f"parameters, accuracy {percent(entry.accuracy)}"
        )
        rows = layer_rows(runner.train_loop.files.genotype(entry))
        picture = figure_bytes(network_plot(rows, title), ".png")
        image = mmcv.imfrombytes(picture, channel_order="rgb")
        runner.visualizer.add_image(name, image, step=entry.step)
