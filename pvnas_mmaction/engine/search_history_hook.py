"""The course of a search as a file, for reports: p of every layer over time."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmaction.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..space.checks import COUNT, check
from ..space.genotype import write_atomically

OF_WEIGHTS, OF_ALPHAS = ("loss", "top1_acc"), ("alpha_loss", "alpha_top1_acc")


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one per line, and the number of lines that are none:
    the last one of a run that was killed while it wrote."""
    records, lines = [], path.read_text("utf-8", errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError):
            records.append(json.loads(line))
    return records, len(lines) - len(records)


@HOOKS.register_module()
class SearchHistoryHook(Hook):
    """Appends a line of JSON to ``work_dir/search/history.jsonl``, every ``interval``
    steps: place, ``p`` (a list per layer), ``Search.scalars``, and losses and
    accuracies of the step. A resumed search drops the lines of steps to come."""

    # After LRDiversityHook and RuntimeInfoHook have put their scalars down.
    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 20) -> None:
        check("interval", interval, COUNT)
        self.interval = interval

    @master_only
    def before_train(self, runner: Runner) -> None:
        self.path = Path(runner.work_dir) / "search" / "history.jsonl"
        records = []
        if runner.iter > 0 and self.path.is_file():
            records, _ = read_json_lines(self.path)
        kept = (json.dumps(r) + "\n" for r in records if r["step"] < runner.iter)
        write_atomically(self.path, "".join(kept))

    @master_only
    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        step, last = runner.iter, runner.iter + 1 == runner.max_iters
        if step % self.interval and not last:
            return
        search = runner.train_loop.search
        p = [[round(value, 5) for value in row] for row in search.probabilities]
        cycle, u = search.schedule.cycle_of(step), search.schedule.position(step)
        record = dict(step=step, epoch=runner.epoch, cycle=cycle, u=u, p=p)
        record |= search.scalars
        logged = runner.message_hub.log_scalars
        # What was logged last may be of another step where the alphas rested in this.
        for name in OF_WEIGHTS + (OF_ALPHAS if record["alphas_lr"] > 0 else ()):
            if f"train/{name}" in logged:
                record[name] = float(logged[f"train/{name}"].current())
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
