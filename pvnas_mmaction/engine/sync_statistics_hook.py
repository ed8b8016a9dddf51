"""Running statistics averaged over the processes."""

from mmaction.registry import HOOKS
from mmengine.dist import all_reduce_params
from mmengine.hooks import SyncBuffersHook
from mmengine.runner import Runner


@HOOKS.register_module()
class SyncStatisticsHook(SyncBuffersHook):
    """``SyncBuffersHook`` for the buffers that checkpoints hold: others, as the mean of
    a data preprocessor, would drift in floating point, and a resumed run differ."""

    def before_val_epoch(self, runner: Runner) -> None:
        if not self.called_in_train:
            self._average(runner)
        self.called_in_train = False

    def after_train_epoch(self, runner: Runner) -> None:
        self._average(runner)
        self.called_in_train = True

    def _average(self, runner: Runner) -> None:
        if self.distributed:
            kept, buffers = runner.model.state_dict(), runner.model.named_buffers()
            all_reduce_params([b for name, b in buffers if name in kept], op="mean")
