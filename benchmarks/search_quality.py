#!/usr/bin/env python
"""Judge the search by the ground truth table, next to alternatives at equal compute.

    python benchmarks/search_quality.py --seeds 0 1 2 3 4 --workers 2 --out FILE.json

Each run is one line of WORK_DIR/searches.jsonl; the command continues there when it
is started again. Compute is counted in clips seen forward and backward: those of
weights steps, of alpha steps and of stand-alone trainings alike.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmengine.config import Config, DictAction

from benchmarks.clips import MotionClips, read_manifest
from benchmarks.ground_truth import DEFAULT, GroundTruth, load
from benchmarks.ground_truth.table import shuffled_indices
from benchmarks.jobs import JobLog, missing, provenance, run_jobs
from benchmarks.memory_search import MemorySearch
from benchmarks.search_report import by_rate, judge_all, markdown
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.profiling.clock import check_device
from pvnas_mmaction.search.diversity import mean_pairwise_hamming
from pvnas_mmaction.space.checks import wrong
from pvnas_mmaction.space.genotype import write_json
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "pvnas" / "pvnas-tiny_search_1xb8-6x1x1-4e_motion-clips.py"
LOG = "searches"
MODES = ("constant", "cosine", "cyclic", "diversity")
# What differs from the config: in LRDiversityHook, and in train_cfg.
VARIANTS: dict[str, dict[str, Any]] = {
    **{mode: dict(hook=dict(mode=mode)) for mode in MODES},
    "gumbel_st": dict(train_cfg=dict(relaxations=dict(alphas="gumbel_st"))),
    # Plain DARTS: all candidates in every step, one cosine, the most probable network.
    # Epochs and warm-up are such that it sees as many clips as the default.
    "darts": dict(
        hook=dict(mode="cosine", warmup=0.0),
        train_cfg=dict(
            relaxations=dict(warmup="softmax", weights="softmax", alphas="softmax"),
            max_epochs=3,
            num_ranked=1,
            largest_every=0,
        ),
    ),
    # Random search with weight sharing (Li and Talwalkar, UAI 2019): paths drawn with
    # equal chances, no alpha steps, then the best of random networks by inherited
    # weights.
    "rsws": dict(
        hook=dict(mode="cosine", warmup=0.995),
        train_cfg=dict(relaxations=dict(weights="uniform"), max_epochs=6, num_ranked=1),
    ),
    "budget": dict(budget=True),
}


def variant_config(cfg: Config, name: str, median_macs: int) -> Config:
    """The search config of one variant.

    Args:
        cfg: The config that all variants start from.
        name: One of :data:`VARIANTS`.
        median_macs: Budget of the variant ``budget``.
    """
    cfg = Config(cfg.to_dict())
    changes = VARIANTS[name]
    for hook in cfg.custom_hooks:
        if hook["type"] == "LRDiversityHook":
            hook.update(changes.get("hook", {}))
    cfg.train_cfg.update(changes.get("train_cfg", {}))
    cfg.train_cfg.cost = (
        dict(kind="flops", budget=median_macs) if changes.get("budget") else None
    )
    return cfg


@dataclass(frozen=True)
class State:
    """What the searches of one process share."""

    cfg: Config
    median_macs: int
    train: MotionClips
    val: MotionClips
    ranked: list[tuple[int, ...]]
    device: str


@dataclass(frozen=True)
class Loader:
    """Builds the state in the process that needs it.

    Args:
        table: The ground truth; its recipe says which clips, at which size.
        data: Folder of the clips.
        config: Search config that variants start from.
        options: Changes to it, as ``--cfg-options`` gives them.
        cache: Folder for decoded clips.
        train_clips: Clips to search on. Default None: those of the table's trainings.
        num_ranked: How many networks are judged with inherited weights. Default 40.
        device: Where searches run. Default ``"cpu"``.

    Raises:
        ValueError: The table is about other clips or another space.
    """

    table: GroundTruth
    data: Path
    config: Path = CONFIG
    options: dict[str, Any] = field(default_factory=dict)
    cache: Path | None = None
    train_clips: int | None = None
    num_ranked: int = 40
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.table.check_clips(read_manifest(self.data), self.data.name)
        if SearchSpace.from_config(self.base_config().model.backbone.space) != (
            self.table.space
        ):
            name = f"{self.config.name}: model.backbone.space"
            raise wrong(name, f"the table's, {self.table.space.name!r}", "another one")

    def base_config(self) -> Config:
        """The config that variants start from, at the size of the table's clips."""
        cfg = Config.fromfile(self.config)
        recipe = self.table.settings["recipe"]
        size = recipe["size"]
        cfg.train_cfg.input_shape = (3, recipe["clip_len"], size, size)
        if self.options:
            cfg.merge_from_dict(self.options)
        return cfg

    def settings(self) -> dict[str, Any]:
        """What all runs share, as plain data."""
        cfg = self.base_config()
        keys = ("model", "optim_wrapper", "train_cfg", "custom_hooks")
        return dict(
            {key: Config(dict(part=cfg[key])).to_dict()["part"] for key in keys},
            batch_size=cfg.train_dataloader.batch_size,
            clips=self.table.settings["clips"],
            train_clips=self._train_clips,
            num_ranked=self.num_ranked,
            device=self.device,
        )

    @property
    def _train_clips(self) -> int:
        return self.train_clips or self.table.settings["recipe"]["train_clips"]

    def __call__(self) -> State:
        recipe = self.table.settings["recipe"]
        shape = (recipe["size"], recipe["clip_len"])
        read = MotionClips.read
        train = read(self.data, "train", *shape, self._train_clips, self.cache)
        val = read(self.data, "val", *shape, None, self.cache)
        return State(
            cfg=self.base_config(),
            median_macs=self.table.median_macs(),
            train=train.to(self.device),
            val=val.to(self.device),
            # The first to be trained: the table holds them even where it is partial.
            ranked=shuffled_indices(self.table.space)[: self.num_ranked],
            device=self.device,
        )


def work(state: State, job: tuple[str, int]) -> dict[str, Any]:
    """Run one search; ``"NAME xF"`` is a variant with F times the alphas' rate."""
    variant, seed = job
    name, _, factor = variant.partition(" x")
    cfg = variant_config(state.cfg, name, state.median_macs)
    where = state.device, state.ranked, float(factor or 1)
    record = run_search(cfg, state.train, state.val, seed, *where)
    if variant == "rsws":
        found, _ = max(record["inherited"], key=lambda pair: pair[1])
        record.update(found=found, macs=None)
    budget = state.median_macs if VARIANTS[name].get("budget") else None
    return dict(variant=variant, seed=seed, max_macs=budget, **record)


def run_search(
    cfg: Config,
    train: MotionClips,
    val: MotionClips,
    seed: int,
    device: str = "cpu",
    ranked: Sequence[Sequence[int]] = (),
    rate_factor: float = 1.0,
) -> dict[str, Any]:
    """Search, then judge some networks with the weights of the supernet.

    Args:
        cfg: As for :class:`MemorySearch`.
        train: Clips to search on.
        val: Clips that rank networks.
        seed: Of everything random.
        device: Where it runs. Default ``"cpu"``.
        ranked: Networks to judge at the end, as candidate indices. Default none.
        rate_factor: As for :class:`MemorySearch`. Default 1.

    Returns:
        Plain data: ``found`` (candidate indices of what the search ended in, which may
        not be part of the archive), ``macs``, ``archive`` (its entries with indices),
        ``mean_pairwise_hamming``, ``distinct``, ``inherited`` (pairs of network and
        accuracy), ``clips``, ``path_clips``, ``forward_clips`` and ``wall_s`` (of the
        search alone), ``p`` (at the end, a list for each layer), ``final_diversity``,
        ``steps`` and ``alpha_steps``.
    """
    started = time.perf_counter()
    memory = MemorySearch(cfg, train, val, seed, device, rate_factor)
    best, search = memory.run(), memory.search
    counts = {key: getattr(memory, f"{key}clips") for key in ("", "path_", "forward_")}
    wall, indices_of = time.perf_counter() - started, search.space.indices_of_blocks
    found = [entry.blocks for entry in search.archive.entries]
    return dict(
        found=list(indices_of(best.blocks)),
        macs=best.macs,
        archive=[
            dict(indices=list(indices_of(e.blocks)), accuracy=e.accuracy, macs=e.macs)
            for e in search.archive.entries
        ],
        mean_pairwise_hamming=mean_pairwise_hamming(found),
        distinct=len(set(found)),
        inherited=[[list(indices), search.judge(indices)] for indices in ranked],
        **{f"{key}clips": value for key, value in counts.items()},
        wall_s=round(wall, 2),
        p=search.probabilities,
        final_diversity=search.scalars["diversity"],
        steps=search.num_steps,
        alpha_steps=search.num_alpha_steps,
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / "data" / "motion_clips_noisy")
    add("--table", type=Path, default=DEFAULT, help="default: the project's own")
    add("--config", type=Path, default=CONFIG, help="search config of the default")
    add("--cfg-options", nargs="+", action=DictAction, default={})
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    rates = "alphas' rates, in units of the schedule's; default: 1"
    add("--rate-factors", type=float, nargs="+", default=[1.0], metavar="F", help=rates)
    add("--train-clips", type=int, help="default: those of the table's trainings")
    add(
        "--ranked",
        type=int,
        default=40,
        help="networks evaluated with inherited weights",
    )
    add("--baseline-seeds", type=int, default=1000, help="runs of each baseline")
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--work-dir", type=Path, default=ROOT / "work_dirs" / "search_quality")
    add("--out", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_device(args.device)
    table = load(args.table)
    loader = Loader(
        table=table,
        data=args.data,
        config=args.config,
        options=args.cfg_options,
        cache=args.work_dir,
        train_clips=args.train_clips,
        num_ranked=args.ranked,
        device=args.device,
    )
    log = JobLog(args.work_dir, LOG, loader.settings())
    # Seed by seed, so that an unfinished table still compares like with like.
    scaled = [name if f == 1 else f"{name} x{f:g}" for name in VARIANTS
              if name in args.variants for f in args.rate_factors]  # fmt: skip
    wanted = [(variant, seed) for seed in args.seeds for variant in scaled]

    def key(job: tuple | dict[str, Any]) -> tuple[str, int]:
        return job if isinstance(job, tuple) else (job["variant"], job["seed"])

    loader()  # decodes the clips before any process wants them
    run_jobs(missing(wanted, log, key), work, loader, log, args.workers)
    by_job = {key(record): record for record in log.records}
    records = [by_job[name, seed] for name in scaled for seed in args.seeds]
    result = dict(
        provenance("benchmarks/search_quality.py", args.device),
        settings=loader.settings(),
        **judge_all(records, table, args.baseline_seeds),
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, result)
    print(markdown(result) if len(args.rate_factors) == 1 else by_rate(result))


if __name__ == "__main__":
    run(main)
