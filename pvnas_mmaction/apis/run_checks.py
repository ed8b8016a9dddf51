"""Whether folder, checkpoint, data and config of a run belong together.

Every checkpoint gets a record of the run that writes it: its network, its data and how
it trains. What loads a checkpoint compares that with its own config: MMEngine would
keep the random weights of what does not fit, and let the checkpoint's optimizer,
schedule and seed win over the config's without a word.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from ..engine.checkpoints import check_finite, saved_checkpoints, weights_of
from ..engine.optim import unwrap
from ..engine.search_data import SeededDataset
from ..engine.warmup_cosine_lr import check_resumed_schedulers
from ..models.pvnas_net import PVNASNet
from ..models.supernet import PVNASSupernet
from ..search.randomness import derived_seed, seed_all, seeded
from ..space.checks import reading, wrong
from .config_checks import leaf_datasets, list_file
from .config_fault import parts

RECORD_KEY = "pvnas_run"
# Where the data lie, and what changes no result of weights that are there, may change.
_IGNORED = {"init_cfg", "pretrained", "provenance", "_scope_", "ann_file"}
_IGNORED |= {"data_prefix", "data_root", "loss_scale", "dtype"}
# What has to be the same wherever a checkpoint is loaded.
_NETWORK = re.compile(
    r"model\.(backbone\.(?!norm_eval|frozen_stages|with_cp)|"
    r"data_preprocessor\.(mean|std|format_shape|to_rgb)\b).*"
)
_LOADER = ("batch_size", "dataset", "sampler", "drop_last")


def check_work_dir(cfg: Config, resumed: bool) -> None:
    """Check that a training overwrites no checkpoints of another one; ``resumed`` says
    whether it continues from the latest checkpoint of the folder."""
    saved = saved_checkpoints(cfg.work_dir)
    here = Path(cfg.work_dir).resolve()
    if cfg.get("resume") and Path(cfg.load_from or here).resolve().parent == here:
        resumed = True
    if saved and not resumed:
        expected = "a folder without checkpoints of another run"
        hint = "once that run has ended, --resume continues it; or name another folder"
        raise wrong("--work-dir", expected, str(saved[0]), hint)


def run_record(cfg: Config, seed: int | None) -> dict[str, Any]:
    """What is compared when a checkpoint of this run is loaded, as data: fields of the
    config, digests of its lists, and the seed."""
    compared = {key: cfg.get(key) or {} for key in ("model", "optim_wrapper")}
    loader = cfg.get("train_dataloader") or {}
    compared["train_dataloader"] = {key: loader.get(key) for key in _LOADER}
    record = {
        field: value
        for field, value in parts(compared)
        if not isinstance(value, dict | list | tuple)
        and not _IGNORED.intersection(re.findall(r"\w+", field))
        and field != "optim_wrapper.type"  # the precision
    }
    for split in ("train", "val"):
        for field, dataset in leaf_datasets(cfg, split):
            path = list_file(dataset)
            if path is not None and path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                record[f"{field}.ann_file"] = f"lines with the digest {digest}"
    record["randomness.seed"] = seed
    return json.loads(json.dumps(record, default=str))


def check_record(found: Mapping, cfg: Config, path: str, resumed: bool = False) -> None:
    """Compare the record in a checkpoint, if it has one, with the config that is going
    to load it: its network, and where it is ``resumed`` also its training."""
    if RECORD_KEY not in found:
        return
    ours = run_record(cfg, (cfg.get("randomness") or {}).get("seed"))
    with reading(f"{path}, {RECORD_KEY}", "the record of a run"):
        theirs = dict(json.loads(found[RECORD_KEY])["fields"])
    hint = "take the config that it was written with"
    if resumed:
        hint += ", or start a new training from its weights: load_from=CHECKPOINT"
    # Of a search and a network, what loads the weights says what to do.
    kinds = {record.get("model.backbone.type") for record in (theirs, ours)}
    same = len(kinds) == 1 or PVNASSupernet.__name__ not in kinds
    for field in {**theirs, **ours}:
        expected, got = theirs.get(field), ours.get(field)
        # A list or the seed may be known to one of the two alone.
        alone = None in (expected, got) and field.endswith((".ann_file", ".seed"))
        compared = not alone if resumed else same and _NETWORK.fullmatch(field)
        if compared and expected != got:
            text = f"{expected!r}, as in the run of {path}"
            raise wrong(field, text, repr(got), hint)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Load a checkpoint's weights; ValueError unless they are all those of a model, and
    no other."""
    try:
        model.load_state_dict(weights_of(state))
    except RuntimeError as error:
        got = " ".join(str(error).split()[6:])[:300]
        hint = "take the config that it was written with"
        raise wrong(path, "the weights of the config's model", got, hint) from error
    check_finite(model, path)


class RunCheckHook(Hook):
    """Records a run in its checkpoints, and checks what is loaded and the first clips.

    A checkpoint is loaded to continue its training (``resumed``), to be ``tested``,
    or as a start: then only the network has to fit, and a head may be another.
    """

    def __init__(self, resumed: bool, tested: bool) -> None:
        self.resumed, self.tested = resumed, tested
        self.lock = ExitStack()  # what is held of the work dir while the run lives
        self.clip: dict | None = None  # of the training, or of the checkpoint's

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        record = dict(fields=run_record(runner.cfg, runner.seed), clip=self.clip)
        checkpoint[RECORD_KEY] = json.dumps(record)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        path = str(runner.cfg.get("load_from") or "checkpoint")
        if self.resumed:
            check_resumable(checkpoint, path)
            _keep_best_here(runner, checkpoint)
        check_record(checkpoint, runner.cfg, path, self.resumed)
        self.clip = json.loads(checkpoint.get(RECORD_KEY, "{}")).get("clip")
        if self.resumed or self.tested:
            load_weights(unwrap(runner.model), checkpoint, path)
        if self.resumed:
            averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
            if "ema_state_dict" in checkpoint and not averaged:
                expected = f"an EMAHook, as in the run of {path}"
                raise wrong("custom_hooks", expected, "none")
            check_length(runner, checkpoint["meta"].get("epoch", 0))
            check_resumed_schedulers(runner, checkpoint, path)

    def before_train(self, runner: Runner) -> None:
        check_finite(runner.model, str(runner.cfg.get("load_from") or "model"))
        self.clip = check_first_clip(runner, "train")
        if runner.val_loop is not None:
            clip = check_first_clip(runner, "val")
            check_same_clips("val", clip, self.clip, "train_dataloader gives them")
        Runner.dump_config(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Before a checkpoint is saved."""
        hint = "lower the learning rate, or resume from an earlier checkpoint"
        check_finite(runner.model, f"training, epoch {runner.epoch + 1}", hint)

    def before_train_epoch(self, runner: Runner) -> None:
        """An epoch after a resume draws what it would have drawn; so does a search, by
        itself."""
        if not isinstance(backbone_of(runner.model), PVNASSupernet):
            seed_all(derived_seed(runner.seed, runner.epoch, get_rank()))

    def before_test(self, runner: Runner) -> None:
        if isinstance(backbone_of(runner.model), PVNASSupernet):
            runner.logger.warning(
                "The supernet is tested as its most probable network, with the batch "
                "normalisation of all networks that were sampled. "
                "tools/derive_genotype.py --rank-on judges networks as the search does"
            )
        clip = check_first_clip(runner, "test") or {}
        clip.pop("size", None)  # some test with larger crops
        where = f"in the training of {runner.cfg.load_from}"
        check_same_clips("test", clip, self.clip, where)


def check_resumable(checkpoint: Mapping, path: str) -> None:
    """Check that a training can continue from a checkpoint."""
    facts = checkpoint.get("meta", {})
    if {"message_hub", "optimizer"} - {*checkpoint} or {"epoch", "iter"} - {*facts}:
        expected = "a checkpoint of a training, with its optimizer and progress"
        hint = "load_from=CHECKPOINT starts a new training from weights"
        raise wrong(path, expected, "weights alone", hint)


def _keep_best_here(runner: Runner, checkpoint: dict) -> None:
    """MMEngine removes the best checkpoint of before, by its path, for a better one:
    that of another folder stays."""
    facts = checkpoint["message_hub"]["runtime_info"]
    best = facts.get("best_ckpt")
    if best and Path(best).resolve().parent != Path(runner.work_dir).resolve():
        del facts["best_ckpt"]


def backbone_of(model: nn.Module) -> nn.Module | None:
    """The backbone of a recognizer, wrapped or not."""
    return getattr(unwrap(model), "backbone", None)


def check_length(runner: Runner, done: int) -> None:
    """Check that a resumed training does not end before the epochs that it has done."""
    epochs = runner.max_epochs
    if runner.cfg.train_cfg.get("by_epoch") is not False and done > epochs:
        expected = f"{done} or more, the epochs that {runner.cfg.load_from} has done"
        raise wrong("train_cfg.max_epochs", expected, str(epochs))
    if done == epochs:
        runner.logger.info(f"Nothing left to do: {done} of {epochs} epochs are done")


def check_batches(runner: Runner) -> None:
    """Check that an epoch has a batch, before schedulers are built on their number."""
    loader = runner.train_dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and len(loader) == 0:
        expected = f"{len(loader.sampler)} or less, the clips that each process has"
        field, hint = "train_dataloader.batch_size", "take drop_last=False"
        raise wrong(field, expected, str(loader.batch_size), hint)


def check_same_clips(
    split: str, found: dict | None, expected: dict | None, where: str
) -> None:
    """Check that two pipelines make clips of one kind."""
    for key in found if found and expected else ():
        if None not in (expected.get(key), found[key]) and expected[key] != found[key]:
            field = f"{split}_dataloader.dataset.pipeline"
            raise wrong(field, f"{expected[key]}, as {where}", found[key])


def check_first_clip(runner: Runner, split: str) -> dict | None:
    """Compare the first clip and all labels of a data set ("train", "val" or "test")
    with the model; gives what clips of all three have in common, as data, or None where
    the network is not of this package."""
    model, backbone = unwrap(runner.model), backbone_of(runner.model)
    dataset = getattr(runner, f"{split}_loop").dataloader.dataset
    dataset = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
    field = f"{split}_dataloader.dataset"
    with seeded(0):
        clip = dataset[0]["inputs"]
    classes = getattr(getattr(model, "cls_head", None), "num_classes", None)
    for index in range(len(dataset) if classes else 0):
        label = dataset.get_data_info(index).get("label", 0)
        if np.max(label) >= classes or (split != "test" and np.min(label) < 0):
            expected = f"class ids below {classes}, as model.cls_head.num_classes"
            expected += ", and none below 0"
            raise wrong(f"{field}.ann_file", expected, f"{label} in entry {index}")
    if not isinstance(backbone, PVNASNet | PVNASSupernet):
        return None
    skeleton, shape = backbone.skeleton, tuple(clip.shape[1:])
    if len(shape) != 4 or shape[0] != skeleton.in_channels:
        expected = f"clips (C, T, H, W) of {skeleton.in_channels} channels"
        raise wrong(f"{field}.pipeline", f"{expected}, as model.backbone", str(shape))
    mean = getattr(model.data_preprocessor, "mean", None)
    if mean is not None and mean.numel() not in (1, shape[0]):
        expected = f"{shape[0]} numbers, as {field}.pipeline gives channels"
        raise wrong("model.data_preprocessor.mean", expected, str(mean.numel()))
    genotype = getattr(backbone, "genotype", None)
    stated = genotype and genotype.provenance.get("input_shape")
    if split != "val" and stated is not None and tuple(stated) != shape:
        runner.logger.warning(
            f"{field}.pipeline gives clips {shape}, model.backbone.genotype was found "
            f"for {tuple(stated)}: the costs and budgets that it states do not hold"
        )
    transforms = getattr(getattr(dataset, "pipeline", None), "transforms", [])
    intervals = [t.frame_interval for t in transforms if hasattr(t, "frame_interval")]
    raw = not clip.is_floating_point() or clip.max() > 16  # black is rare
    return {
        "frames": f"{shape[1]} frames",
        "interval": f"a frame_interval of {intervals[0]}" if intervals else None,
        "values": "values from 0 to 255" if raw else "normalised values",
        "size": f"{shape[2]}x{shape[3]} pixels",
    }


def check_head(model: nn.Module) -> None:
    """Check that a head takes as many channels as the network before it gives."""
    model, backbone = unwrap(model), backbone_of(model)
    if not isinstance(backbone, PVNASNet | PVNASSupernet):
        return
    skeleton = backbone.skeleton
    last = [len(skeleton.stages)]
    if model.with_neck or list(getattr(backbone, "out_indices", last)) != last:
        return  # a neck, or a head of another kind, takes the stages' outputs
    found = getattr(model.cls_head, "in_channels", skeleton.out_channels)
    if found != skeleton.out_channels:
        expected = f"{skeleton.out_channels}, the output width of the backbone"
        raise wrong("model.cls_head.in_channels", expected, str(found))
