"""A picture of every network that a search finds, where its scalars are logged."""

import mmcv
from mmaction.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..search.archive import ArchiveEntry
from .drawing import network_plot
from .layers import format_count, layer_rows, percent
from .plot import figure_bytes


@HOOKS.register_module()
class GenotypePictureHook(Hook):
    """Gives the drawing of a cycle's network to the visualizer, as ``genotype``, and at
    the end that of the search's, where the archive lacks it, as ``genotype_final``."""

    # After LRDiversityHook (NORMAL), which ends the cycle and fills the archive.
    priority = "BELOW_NORMAL"

    @master_only
    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        search = runner.train_loop.search
        if not search.at_cycle_end:
            return
        entry, final = search.archive.entries[-1], search.archive.final
        self._show(runner, entry, "genotype", f"Cycle {entry.cycle + 1}")
        if final and all(final.blocks != e.blocks for e in search.archive.entries):
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
