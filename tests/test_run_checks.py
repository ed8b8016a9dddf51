"""Every pair of what a folder or checkpoint holds and what a command asks for: it fits,
or it is refused before anything runs."""

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmaction.datasets.transforms import FormatShape
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tool_processes import CONFIGS, RETRAIN, SEARCH, data_options, run_main

from pvnas_mmaction.engine.folder_lock import folder_lock
from pvnas_mmaction.space.genotype import load_genotype, save_genotype


@TRANSFORMS.register_module()
class Halved(FormatShape):
    """The format, with values from 0 to 1/2 as another normalisation gives."""

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        return {**results, "imgs": results["imgs"].astype("float32") / 510}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CONFIG = CONFIGS / RETRAIN


@pytest.fixture(scope="module")
def genotypes(tmp_path_factory) -> Path:
    """Genotypes of the space ``tiny`` whose weights have the same names and shapes,
    since a shift has none."""
    folder = tmp_path_factory.mktemp("genotypes")
    found = load_genotype(CONFIGS / "genotypes" / "pvnas-tiny.json")
    for name, block in (("shift", "ts_t3"), ("same_shapes", "mb_t1")):
        blocks = (f"{block}_k3_e2",) * len(found.blocks)
        save_genotype(replace(found, blocks=blocks), folder / f"{name}.json")
    return folder


@pytest.fixture(scope="module")
def finished(motion_clips, genotypes, tmp_path_factory) -> Path:
    """The work dir of a training of the genotype ``shift``, two epochs long."""
    folder = tmp_path_factory.mktemp("finished")
    assert run_main("train", *arguments(motion_clips, genotypes, folder)) == 0
    return folder


def arguments(clips: Path, genotypes: Path, work_dir: Path, *more: str) -> list:
    options = [*data_options(clips), f"model.backbone.genotype={genotypes}/shift.json"]
    options += ["train_cfg.max_epochs=2", "train_dataloader.batch_size=8"]
    seed = ["--work-dir", work_dir, "--seed", "0"]
    return [CONFIG, *seed, "--cfg-options", *options, *more]


@pytest.fixture
def train(motion_clips, genotypes, call_tool) -> Callable[..., str]:
    """Train the genotype ``shift``, or what more arguments say; the error's line."""
    return lambda work_dir, *more: call_tool(
        "train", *arguments(motion_clips, genotypes, work_dir, *more)
    )


@pytest.fixture
def work_dir(finished, tmp_path) -> Path:
    """A copy of ``finished``."""
    return shutil.copytree(finished, tmp_path / "work")


@pytest.fixture
def lists(motion_clips, tmp_path) -> Path:
    """The lists of the clips: ``same``, and ``short`` with a line less."""
    for name in ("train", "val"):
        text = (motion_clips / f"{name}.txt").read_text()
        (tmp_path / f"same_{name}.txt").write_text(text)
        short = text.splitlines(keepends=True)[1:]
        (tmp_path / f"short_{name}.txt").write_text("".join(short))
    return tmp_path


DATA = [f"{split}_dataloader.dataset" for split in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (("model.backbone.genotype={genotypes}/same_shapes.json",), "blocks[0]"),
        (("model.data_preprocessor.mean=[1,2,3]",), "model.data_preprocessor.mean[0]"),
        (("train_dataloader.dataset.ann_file={lists}/short_train.txt",),
         "train_dataloader.dataset.ann_file"),
        (("train_dataloader.dataset.pipeline.1.clip_len=4",),
         "train_dataloader.dataset.pipeline[1].clip_len"),
        (("train_dataloader.drop_last=True",), "train_dataloader.drop_last"),
        (("train_cfg.max_epochs=1",), "train_cfg.max_epochs"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_resume_with_something_else_is_refused(
    options, field, work_dir, lists, genotypes, train
):
    before = [(work_dir / name).read_bytes() for name in ("epoch_2.pth", RETRAIN)]
    options = [option.format(lists=lists, genotypes=genotypes) for option in options]
    line = train(work_dir, *options, "--resume")
    assert f"{field}: expected " in line and ", got " in line
    after = [(work_dir / name).read_bytes() for name in ("epoch_2.pth", RETRAIN)]
    assert after == before


def test_resume_of_the_same_run_fits(work_dir, lists, train):
    """Where lists lie, and what reads and watches, may change; a run that is done is
    said to be."""
    options = [f"train_dataloader.dataset.ann_file={lists}/same_train.txt"]
    options += ["train_dataloader.num_workers=1", "default_hooks.logger.interval=1"]
    assert not train(work_dir, *options, "--resume", "--no-validate")
    log = max(work_dir.glob("*/*.log"), key=lambda path: path.parent.name).read_text()
    assert "Nothing left to do: 2 of 2 epochs are done" in log


def test_resume_in_another_folder(
    work_dir, motion_clips, genotypes, tmp_path, call_tool
):
    """Without a seed the checkpoint's holds; what is best there stays there."""
    first, best = work_dir / "epoch_1.pth", str(work_dir / "epoch_2.pth")
    found = torch.load(first, weights_only=False)
    found["message_hub"]["runtime_info"].update(best_score=-1, best_ckpt=best)
    torch.save(found, first)
    _, *rest = arguments(motion_clips, genotypes, tmp_path / "other")
    del rest[(place := rest.index("--seed")) : place + 2]
    assert not call_tool("train", CONFIG, "--resume", first, *rest)
    paths = [folder / "epoch_2.pth" for folder in (work_dir, tmp_path / "other")]
    states = [torch.load(path, weights_only=False)["state_dict"] for path in paths]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_resume_from_weights_alone(work_dir, tmp_path, train):
    found = torch.load(work_dir / "epoch_1.pth", weights_only=False)
    for keys in (["state_dict"], ["state_dict", "meta"], {*found} - {"optimizer"}):
        torch.save({key: found[key] for key in keys}, tmp_path / "part.pth")
        line = train(tmp_path / "other", "--resume", tmp_path / "part.pth")
        assert "part.pth: expected a checkpoint of a training" in line
    torch.save({**found, "ema_state_dict": {}}, tmp_path / "part.pth")
    line = train(tmp_path / "other", "--resume", tmp_path / "part.pth")
    assert "custom_hooks: expected an EMAHook" in line


def test_a_training_that_diverges_ends(tmp_path, train):
    options = ["optim_wrapper.optimizer.lr=1e30", "optim_wrapper.clip_grad=None"]
    line = train(tmp_path / "work", *options)
    assert "weight: expected finite weights" in line
    assert not [*(tmp_path / "work").glob("*.pth")]


def test_a_new_training_overwrites_no_other(work_dir, finished, train):
    for more in ([], ["--resume", finished / "epoch_2.pth"]):
        assert train(work_dir, *more) == (
            "--work-dir: expected a folder without checkpoints of another run, got "
            f"{work_dir}/epoch_2.pth; once that run has ended, --resume continues it; "
            "or name another folder"
        )


def test_weights_of_another_network_are_no_start(finished, genotypes, tmp_path, train):
    for name, refused in (("same_shapes", True), ("shift", False)):
        options = [f"model.backbone.genotype={genotypes}/{name}.json"]
        options += [f"load_from={finished}/epoch_2.pth", "train_cfg.max_epochs=1"]
        line = train(tmp_path / name, *options)
        assert ("model.backbone.genotype.blocks[0]: expected 'ts_" in line) == refused


# -- tests and exports ------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "what", "message"),
    [
        ("test", "genotype", "backbone.genotype.blocks[0]: expected 'ts_t3_k3_e2', as"),
        ("export_onnx", "mean", "model.data_preprocessor.mean[0]: expected "),
        ("test", "cls_head.fc_cls.weight", "size mismatch for cls_head.fc_cls.weight"),
        ("export_onnx", "neck.weight", 'got Unexpected key(s) in state_dict: "neck.we'),
        ("test", "nan", "changed.pth, cls_head.fc_cls.bias: expected finite weights,"),
        ("train", "nan", "changed.pth, cls_head.fc_cls.bias: expected finite weights,"),
        ("test", "head", "expected weights whose names begin with 'backbone.', got no"),
        ("export_onnx", "record", "changed.pth, pvnas_run: expected the record of a r"),
    ],
)
def test_a_checkpoint_of_something_else_gives_no_score(
    tool, what, message, finished, genotypes, motion_clips, tmp_path, call_tool
):
    checkpoint, name, options = finished / "epoch_2.pth", "shift", []
    if what == "genotype":
        name = "same_shapes"
    elif what == "mean":
        options = ["model.data_preprocessor.mean=[1,2,3]"]
    else:
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        checkpoint, head = tmp_path / "changed.pth", state["cls_head.fc_cls.bias"]
        state |= {what: torch.ones(1)} if "." in what else {}
        state = dict(bias=head) if what == "head" else state
        head *= torch.nan if what == "nan" else 1
        more = dict(pvnas_run="{}") if what == "record" else {}
        torch.save(dict(state_dict=state, **more), checkpoint)
    options += [f"model.backbone.genotype={genotypes}/{name}.json"]
    argv = [CONFIG, "--cfg-options", *data_options(motion_clips), *options]
    argv += [f"load_from={checkpoint}"] if tool == "train" else []
    argv[1:1] = [checkpoint] if tool != "train" else []
    out = dict(export_onnx=["--out", tmp_path / "m.onnx"])
    line = call_tool(tool, *out.get(tool, ["--work-dir", tmp_path]), *argv)
    assert message in line
    assert not (tmp_path / "m.onnx").exists()


def test_a_search_and_a_training_do_not_swap_checkpoints(
    finished, motion_clips, tmp_path, call_tool
):
    cfg = Config.fromfile(CONFIGS / SEARCH)
    init_default_scope("mmaction")
    supernet = tmp_path / "supernet.pth"
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), supernet)
    for config, checkpoint, message in (
        (CONFIG, supernet, "derive a network from it with tools/derive_genotype.py"),
        (CONFIGS / SEARCH, finished / "epoch_2.pth", "checkpoint of a search"),
    ):
        argv = [config, checkpoint, "--work-dir", tmp_path / "work", "--cfg-options"]
        assert message in call_tool("test", *argv, *data_options(motion_clips))


def test_a_test_leaves_the_config_of_the_training(work_dir, lists, call_tool):
    """In its folder, on other clips than those it validated on, which is no mistake."""
    dumped = (work_dir / RETRAIN).read_text()
    argv = [work_dir / RETRAIN, work_dir / "epoch_2.pth", "--work-dir", work_dir]
    option = f"test_dataloader.dataset.ann_file={lists}/short_val.txt"
    assert not call_tool("test", *argv, "--cfg-options", option)
    assert (work_dir / RETRAIN).read_text() == dumped


# -- the first clip ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model.data_preprocessor.mean=[1,2]", "model.data_preprocessor.std=[1,1]"),
         "model.data_preprocessor.mean: expected 3 numbers, as train_dataloader.data"),
        (("train_dataloader.dataset.type=VideoDataset", "model.cls_head.num_classes=7",
          *(f"{field}.ann_file={{lists}}/same_train.txt" for field in DATA),
          *(f"{field}.num_classes=None" for field in DATA),
          "model.data_preprocessor.blending=None"),
         "train_dataloader.dataset.ann_file: expected class ids below 7, as model."),
        (("train_dataloader.dataset.num_classes=9",),
         "model.cls_head.num_classes: expected 9, as train_dataloader.dataset.nu"),
        (("model.data_preprocessor.blending.opposites=[0,1]",),
         "model.data_preprocessor.blending.opposites: expected 8 class ids, as model"),
        (("val_dataloader.dataset.pipeline.1.clip_len=4",),
         "val_dataloader.dataset.pipeline: expected 6 frames, as train_dataloader g"),
        (("val_dataloader.dataset.pipeline.1.frame_interval=2",),
         "val_dataloader.dataset.pipeline: expected a frame_interval of 1, as train_"),
        (("train_dataloader.dataset.pipeline.3.scale=(16,20)",),
         "val_dataloader.dataset.pipeline: expected 20x16 pixels, as train_dataload"),
        (("train_dataloader.dataset.pipeline.4.type=Halved",),
         "val_dataloader.dataset.pipeline: expected normalised values, as train_dat"),
        (("train_dataloader.batch_size=33", "train_dataloader.drop_last=True"),
         "train_dataloader.batch_size: expected 32 or less, the clips that each pro"),
        (("val_dataloader.drop_last=True",), "val_dataloader.drop_last: expected Fal"),
        (("default_hooks.checkpoint.save_best=acc/top7", "train_cfg.max_epochs=1"),
         "default_hooks.checkpoint: expected settings that CheckpointHook takes, got "),
        (("model.cls_head.type=SlowFastHead",),
         "model.cls_head: expected settings that SlowFastHead takes, got others (Val"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_model_or_training(options, message, lists, train):
    options = [option.format(lists=lists) for option in options]
    assert train(lists / "work", *options).startswith(message)


def test_names_of_other_classes(lists, train):
    """Are found before the training, not when its network is exported."""
    (lists / "classes.txt").write_text("up\ndown\n")
    option = f"train_dataloader.dataset.ann_file={lists}/same_train.txt"
    assert train(lists / "work", option) == (
        f"{lists}/classes.txt: expected 8 lines, as model.cls_head.num_classes, got 2"
    )


def test_a_test_on_other_clips(finished, genotypes, motion_clips, tmp_path, call_tool):
    """Other numbers of frames are refused; crops may be larger."""
    checkpoint = finished / "epoch_2.pth"
    argv = [CONFIG, checkpoint, "--work-dir", tmp_path, "--cfg-options"]
    argv += data_options(motion_clips)
    argv.append(f"model.backbone.genotype={genotypes}/shift.json")
    pipeline = "test_dataloader.dataset.pipeline"
    assert call_tool("test", *argv, f"{pipeline}.1.clip_len=4") == (
        f"{pipeline}: expected 6 frames, as in the training of {checkpoint}, got 4 "
        "frames"
    )
    assert not call_tool("test", *argv, f"{pipeline}.3.scale=(24,24)")


@pytest.mark.parametrize("config", [RETRAIN, SEARCH])
def test_two_runs_do_not_share_a_folder(config, motion_clips, tmp_path, call_tool):
    """The second, a training or a search, is refused before it writes anything."""
    ready, stop = multiprocessing.Event(), multiprocessing.Event()

    def first():
        with folder_lock(tmp_path / ".training.lock", "the training"):
            ready.set()
            stop.wait(120)

    process = multiprocessing.get_context("fork").Process(target=first)
    process.start()
    assert ready.wait(60)
    kept = tmp_path / config
    kept.write_text("that of the first")
    options = ["--cfg-options", *data_options(motion_clips)]
    line = call_tool("train", CONFIGS / config, "--work-dir", tmp_path, *options)
    stop.set()
    process.join()
    who = f"got the training of process {process.pid} on "
    assert f"{tmp_path}: expected a folder for itself, {who}" in line
    assert kept.read_text() == "that of the first"
    assert {path.name for path in tmp_path.iterdir()} == {config, ".training.lock"}


def test_a_search_checks_what_it_is_judged_on(motion_clips, tmp_path, call_tool):
    """Class ids of all validation clips, and the first one, before the first step."""
    text = (motion_clips / "val.txt").read_text().replace(" 7\n", " 8\n")
    (tmp_path / "val.txt").write_text(text)
    options = [*data_options(motion_clips), "val_dataloader.dataset.num_classes=None"]
    options += [f"val_dataloader.dataset.ann_file={tmp_path}/val.txt"]
    options += ["train_cfg.max_epochs=1", "train_cfg.min_steps=24"]
    argv = [CONFIGS / SEARCH, "--work-dir", tmp_path / "work", "--cfg-options"]
    line = call_tool("train", *argv, *options)
    assert "val_dataloader.dataset.ann_file: expected class ids below 8, as mod" in line
    options[-4:] = ["val_dataloader.dataset.pipeline.1.clip_len=4", *options[-2:]]
    line = call_tool("train", *argv, *options)
    assert "val_dataloader.dataset.pipeline: expected 6 frames, as train_da" in line
    options[-4] = "model.cls_head.type=TSNHead"
    line = call_tool("train", *argv, *options)
    assert line.startswith("model.cls_head: expected settings that TSNHead takes, ")
    assert not (tmp_path / "work/search/archive.json").exists()
