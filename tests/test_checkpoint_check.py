# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A checkpoint of another network is an error; one of the same network loads."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner, load_checkpoint
from torch import nn
from toys import (
    build_recognizer,
    one_genotype_per_family,
    recognizer,
    space_of_all_families,
)

from pvnas_mmaction.models import PVNASNet, PVNASSupernet

GENOTYPES = one_genotype_per_family()
SPACE = space_of_all_families()
NET = dict(type="PVNASNet", genotype=GENOTYPES["mb"])
OTHER_SPACE = dict(SPACE, name="other", head_channels=24)


def wider_head() -> dict[str, Any]:
    return dict(GENOTYPES["mb"]["skeleton"], head_channels=24)


def skipped() -> list[str]:
    return [*GENOTYPES["mb"]["blocks"][:3], "skip"]


MISMATCHES = [
    (
        lambda: PVNASNet(GENOTYPES["mb3d"]),
        lambda: PVNASNet(GENOTYPES["mb"]),
        # per layer one convolution with weight and four numbers of its normalisation
        # in place of two
        r"found another network, expected that of the genotype of space 'all' with "
        r"blocks mb_t3_k3_e2.25_se skip .*: 30 parameters missing, 15 unexpected, 0 of "
        r"another shape. First: layers.0.spatial.conv.weight: found nothing, "
        r"expected shape \(16, 1, 1, 3, 3\). Use the genotype that the checkpoint was",
    ),
    (
        lambda: PVNASNet(dict(GENOTYPES["mb"], skeleton=wider_head())),
        lambda: PVNASNet(GENOTYPES["mb"]),
        r": 0 parameters missing, 0 unexpected, 5 of another shape. First: "
        r"head.project.conv.weight: found shape \(24, 16, 1, 1, 1\), expected",
    ),
    (
        lambda: PVNASNet(dict(GENOTYPES["mb"])),
        lambda: PVNASNet(dict(GENOTYPES["mb"], blocks=skipped())),
        r": 0 parameters missing, \d+ unexpected, 0 of another shape. First: "
        r"layers.3.expand.conv.weight: found shape .*, expected no such param",
    ),
    (
        lambda: PVNASSupernet(SPACE),
        lambda: PVNASNet(GENOTYPES["mb"]),
        r"This is the checkpoint of a search: derive a network from it with "
        r"tools/derive_genotype.py",
    ),
    (
        lambda: PVNASNet(GENOTYPES["mb"]),
        lambda: PVNASSupernet(SPACE),
        r"expected the supernet of space 'all'.*no checkpoint of a search",
    ),
    (
        lambda: PVNASSupernet(OTHER_SPACE),
        lambda: PVNASSupernet(SPACE),
        r"expected the supernet of space 'all': .* 5 of another shape.*Use the space",
    ),
    (
        lambda: build_recognizer(NET),
        lambda: PVNASNet(GENOTYPES["mb"]),
        r"checkpoint of a whole recognizer: say prefix='backbone.' beside",
    ),
    (
        lambda: nn.Linear(2, 2),
        lambda: PVNASNet(GENOTYPES["mb"]),
        r"missing, 2 unexpected, .* First: stem.spatial.conv.weight: found nothing",
    ),
    (
        lambda: build_recognizer(dict(NET, genotype=GENOTYPES["rb"])),
        lambda: build_recognizer(NET),
        r"First: backbone.layers.0.expand.conv.weight: found",
    ),
    (
        lambda: nn.Sequential(),
        lambda: build_recognizer(NET),
        r"missing, 0 unexpected, 0 of another shape. First: backbone.stem.spatial.conv"
        r".weight: found nothing, expected shape \(8, 3, 1, 3, 3\)",
    ),
]


@pytest.mark.parametrize(
    ("source", "target", "message"), MISMATCHES, ids=range(len(MISMATCHES))
)
def test_another_network(
    source: Any, target: Any, message: str, tmp_path: Path
) -> None:
    """By MMEngine's way, which only warns, and by PyTorch's; nothing is copied."""
    path, model = tmp_path / "checkpoint.pth", target()
    torch.save(dict(state_dict=source().state_dict()), path)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="checkpoint: .*" + message):
        load_checkpoint(model, str(path), strict=False)
    with pytest.raises(ValueError, match="checkpoint: .*" + message):
        model.load_state_dict(source().state_dict(), strict=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def same(a: nn.Module, b: nn.Module) -> bool:
    states = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in states)


def test_the_same_network_loads(tmp_path: Path) -> None:
    source, path = build_recognizer(NET, 3), tmp_path / "checkpoint.pth"
    torch.save(dict(state_dict=source.state_dict()), path)
    model = build_recognizer(NET, 3)
    load_checkpoint(model, str(path), strict=True)
    assert same(model, source)
    finetuned = build_recognizer(NET, 9)  # another head is the user's business
    load_checkpoint(finetuned, str(path), strict=False)
    assert same(finetuned.backbone, source.backbone)
    state = source.backbone.state_dict()  # older files do not count batches
    old = {name: x for name, x in state.items() if "num_batches" not in name}
    model.backbone.load_state_dict(old, strict=False)


@pytest.mark.parametrize(
    ("model", "argument"),
    [(PVNASNet, GENOTYPES["mb"]), (PVNASSupernet, SPACE)],
    ids=["PVNASNet", "PVNASSupernet"],
)
def test_copies_and_wrappers_load_and_check(
    model: type[nn.Module], argument: dict[str, Any]
) -> None:
    source = model(argument)
    for copied in (
        copy.deepcopy(source),
        pickle.loads(pickle.dumps(source)),
        torch.compile(source, backend="eager"),
        ExponentialMovingAverage(source),
    ):
        copied.load_state_dict(copied.state_dict(), strict=True)
        with pytest.raises(ValueError, match="checkpoint: found another network"):
            copied.load_state_dict({}, strict=False)


def test_a_folded_network_loads_its_own_checkpoint() -> None:
    nets = [PVNASNet(GENOTYPES["mb"]) for _ in range(2)]
    training_state = copy.deepcopy(nets[0].state_dict())
    for net in nets:
        net.switch_to_deploy()
    nets[1].load_state_dict(nets[0].state_dict(), strict=True)
    assert same(*nets)
    with pytest.raises(ValueError, match=r"stem\.conv\.bias: found nothing"):
        nets[1].load_state_dict(training_state, strict=False)


class Clips(torch.utils.data.Dataset):
    """Four random clips."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = torch.randn(
            1, 3, 3, 9, 9, generator=torch.Generator().manual_seed(index)
        )
        return dict(inputs=clip, data_samples=ActionDataSample().set_gt_label(index))


def make_runner(work_dir: Path, genotype: str, **options: Any) -> Runner:
    return Runner(
        model=recognizer(dict(NET, genotype=GENOTYPES[genotype])),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Clips(),
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[dict(type="EMAHook", momentum=0.5, update_buffers=True)],
        default_scope="mmaction",
        log_level="ERROR",
        experiment_name=f"{work_dir.name}-{genotype}-{len(options)}",
        **options,
    )


def averaged(runner: Runner) -> nn.Module:
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    return hook.ema_model


def test_runner_resumes_and_loads(tmp_path: Path) -> None:
    first = make_runner(tmp_path, "mb")
    first.train()
    assert not same(averaged(first).module, first.model)
    # One epoch of one is done: resuming restores and trains no more.
    resumed = make_runner(tmp_path, "mb", resume=True)
    resumed.train()
    assert same(resumed.model, first.model)
    assert same(averaged(resumed), averaged(first))
    other = make_runner(tmp_path, "rb", load_from=str(tmp_path / "epoch_1.pth"))
    with pytest.raises(ValueError, match="found another network, expected that of"):
        other.train()
