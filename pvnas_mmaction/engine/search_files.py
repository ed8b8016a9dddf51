"""What a search leaves in its work directory, written whole and by rank 0 alone."""

import json
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import mmengine
import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from .. import __version__
from ..search.archive import ArchiveEntry
from ..search.distributed import from_rank_0
from ..search.search import Search
from ..space.checks import reading
from ..space.genotype import Genotype, replacing, save_genotype, write_json
from .search_data import SearchData


def start_facts() -> dict[str, str]:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return dict(
        command=shlex.join(sys.argv),
        device=", ".join(names) or "CPU",
        pvnas_mmaction=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        mmengine=mmengine.__version__,
        opencv=cv2.__version__,
    )


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an exception comes from Ctrl-C, or SIGTERM. MMEngine turns it into a
    SyntaxError while it formats the config for a checkpoint."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Starts in a ``run.json``; one that was killed, or still runs, ended when it last
    wrote its history."""
    history = path.with_name("history.jsonl")
    wrote = (history if history.is_file() else path).stat().st_mtime
    last = datetime.fromtimestamp(wrote).isoformat(timespec="seconds")
    with reading(path, "the starts of a search as JSON"):
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [{**start, "ended": start["ended"] or last} for start in starts]


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def save_weights(state: dict[str, Tensor], blocks: Sequence[str], path: Path) -> None:
    """Write a network's weights for ``load_from``, whole or not at all."""
    own = {name: value.clone() for name, value in state.items()}  # shared ones, too
    with replacing(path) as temporary:
        torch.save(dict(meta=dict(blocks=list(blocks)), state_dict=own), temporary)


class SearchFiles:
    """Writer of ``work_dir/search``; setting and archive are for rank 0 alone."""

    def __init__(self, runner: Runner, search: Search, data: SearchData) -> None:
        self.runner, self.search, self.data = runner, search, data
        self.directory = Path(runner.work_dir) / "search"

    def write_setting(self) -> None:
        """Write down space and split, once what an earlier search has found in this
        folder was moved to ``search_before_TIMESTAMP``."""
        search, data, logger = self.search, self.data, self.runner.logger
        has_archive = (self.directory / "archive.json").exists()
        if search.num_steps == 0:
            if has_archive:
                earlier = f"search_before_{self.runner.timestamp}"
                self.directory.rename(self.directory.with_name(earlier))
                text = "found another search, moved to"
                logger.warning(f"{self.directory}: {text} {earlier}")
            # Nor does --resume continue another search.
            self.directory.with_name("last_checkpoint").unlink(missing_ok=True)
        split = dict(
            seed=data.seed,
            alpha_share=data.alpha_share,
            ann_file=data.ann_file,
            weights=data.weights_half,
            alphas=data.alpha_half,
        )
        budget = search.budget
        setting = dict(
            space=search.space.to_config(),
            input_shape=list(search.input_shape),
            num_classes=search.num_classes,
            budget=budget and dict(kind=budget.table.kind, budget=budget.limit),
        )
        write_json(self.directory / "space.json", setting, indent=None)
        write_json(self.directory / "split.json", split, indent=None)
        logger.info(
            f"Search space {search.space.name!r}: {search.space.size:.4g} networks, "
            f"{len(search.space.layers)} layers; {len(data.weights_half)} clips train "
            f"the weights, {len(data.alpha_half)} the alphas"
        )
        if search.archive.entries and not has_archive:  # resumed in another folder
            self.write_archive()

    @contextmanager
    def recorded_run(self) -> Iterator[None]:
        """Write ``run.json`` at the start and the end of what runs within this context.
        ``state`` is ``running`` (also of a search that was killed), ``finished``,
        ``interrupted`` or ``failed`` by ``error``; a resumed search has several
        ``starts``."""
        if not is_main_process():
            yield
            return
        runner, path = self.runner, self.directory / "run.json"
        start = dict(folder=runner.timestamp, step=runner.iter, started=_now())
        resumed = runner.iter > 0 and path.is_file()
        record = dict(
            state="running",
            error=None,
            config=str(runner.cfg.filename or ""),
            seed=self.search.seed,
            num_steps=runner.max_iters,
            data=dict(
                ann_file=self.data.ann_file,
                num_weights_clips=len(self.data.weights_half),
                num_alphas_clips=len(self.data.alpha_half),
            ),
            schedule=asdict(self.search.schedule.config),
            starts=read_starts(path) if resumed else [],
        )
        record["starts"].append({**start, "ended": None, **start_facts()})
        write_json(path, record)
        try:
            yield
            record["state"] = "finished"
        except BaseException as error:
            record["state"] = "interrupted" if is_interrupt(error) else "failed"
            if record["state"] == "failed":
                record["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            record["starts"][-1]["ended"] = _now()
            write_json(path, record)

    def write_archive(self) -> None:
        """Write the archive, its genotypes and, with a donor, what blocks are worth."""
        archive = self.search.archive
        if found := self.search.sensitivities:
            write_json(self.directory / "sensitivities.json", found, indent=None)
        for entry in [*archive.entries, *([archive.final] if archive.final else [])]:
            save_genotype(self.genotype(entry), self.directory / entry.file)
        write_json(self.directory / "archive.json", archive.to_dict())

    def write_result(self) -> None:
        """Write the genotype that the search chose, ``diagnostics.json`` and, with a
        donor, the weights to fine-tune it from."""
        search, weights = self.search, None
        best, path = search.archive.best(), self.directory / "genotype.json"
        if search.donor:  # by all ranks
            weights = search.inherited(search.space.indices_of_blocks(best.blocks))

        def write() -> None:
            save_genotype(self.genotype(best), path)
            if search.diagnostics:
                write_json(self.directory / "diagnostics.json", search.diagnostics)
            if weights is not None:
                save_weights(weights, best.blocks, path.with_suffix(".pth"))

        from_rank_0(write)
        self.runner.logger.info(
            f"Search done: {len(search.archive.entries)} genotype(s), the "
            f"{'last' if best.accuracy is None else 'best'} is {path}: "
            f"{' '.join(best.blocks)}"
        )

    def genotype(self, entry: ArchiveEntry) -> Genotype:
        """The genotype of an entry, with its provenance."""
        search = self.search
        provenance = dict(
            data=self.data.ann_file,
            config=str(self.runner.cfg.filename or ""),
            seed=search.seed,
            code_version=__version__,
            input_shape=list(search.input_shape),
            num_classes=search.num_classes,
            macs=entry.macs,
            params=entry.params,
            accuracy=entry.accuracy,
            cycle=entry.cycle,
            step=entry.step,
        )
        space = search.space
        return Genotype(space.name, space.skeleton, entry.blocks, provenance)
