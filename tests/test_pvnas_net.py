"""The backbone of a genotype, alone and inside MMAction2's recognizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from toys import build_recognizer, one_genotype_per_family

from pvnas_mmaction.models import PVNASNet
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import load_genotype, parse_genotype

GENOTYPES = one_genotype_per_family()
CONTENT = GENOTYPES["mb"]
SHIPPED = Path(__file__).parent.parent / "configs" / "pvnas" / "genotypes"


def make_net(content: Any = CONTENT, **options: Any) -> PVNASNet:
    torch.manual_seed(0)
    net = PVNASNet(content, **options)
    for name, value in net.state_dict().items():
        if ".bn." in name and value.dim():
            low = 0.0 if name.endswith("mean") else 0.5
            value.copy_(torch.rand(value.shape) / 2 + low)
    return net


def clip(batch: int = 2) -> Tensor:
    seed = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 5, 17, 13, generator=seed)


RESNET = CONTENT["skeleton"] | dict(
    stem=dict(channels=8, kernel=7, pool=3), head_channels=None, padding="tf_same",
    activation="hard_swish",
)  # fmt: skip


@pytest.mark.parametrize("skeleton", [CONTENT["skeleton"], RESNET])
def test_outputs_of_the_stages(skeleton: dict[str, Any]) -> None:
    """Two stages of two layers each; index 2 is the last convolution, if any."""
    content = dict(CONTENT, skeleton=skeleton)
    net = make_net(content).eval()
    x, outputs = net.stem(clip()), []
    for index, layer in enumerate(net.layers):
        x = layer(x)
        if index in (1, 3):
            outputs.append(x)
    outputs.append(net.head(x))
    torch.testing.assert_close(net(clip()), outputs[2])
    for chosen in ((2,), (0,), (0, 1, 2), (2, 0)):
        y = make_net(content, out_indices=chosen).eval()(clip())
        assert isinstance(y, Tensor) == (len(chosen) == 1)
        found = (y,) if isinstance(y, Tensor) else y
        torch.testing.assert_close(found, tuple(outputs[i] for i in chosen))
    sizes = (3, 2) if skeleton is RESNET else (5, 4)
    shapes = [tuple(y.shape) for y in outputs]
    assert shapes == [(2, 8, 5, *sizes), *[(2, 16, 3, *sizes)] * 2]


@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_eval(norm_eval: bool) -> None:
    net = make_net(norm_eval=norm_eval)
    assert net.train() is net and net.eval() is net and net.train() is net
    assert net.training
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    assert {module.training for module in norms} == {not norm_eval}
    before = [module.running_mean.clone() for module in norms]
    net(clip())
    for module, mean in zip(norms, before, strict=True):
        assert torch.equal(module.running_mean, mean) == norm_eval


def test_where_a_genotype_may_come_from(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(CONTENT))
    expected = parse_genotype(CONTENT)
    for genotype in (CONTENT, ConfigDict(CONTENT), expected, path, str(path)):
        assert PVNASNet(genotype).genotype == expected


def test_errors_through_the_registry(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(dict(CONTENT, blocks=["mb_t2_k3_e1"] * 4)))
    for genotype, error, message in (
        (str(bad), ValueError, rf"{bad}: blocks\[0\]: expected t odd"),
        (str(tmp_path / "none.json"), FileNotFoundError, "none.json"),
        (dict(CONTENT, space=""), ValueError, "genotype: space: expected a name"),
        ("nopkg.sub::x.json", FileNotFoundError, "got 'nopkg.sub'; install it or"),
    ):
        with pytest.raises(error, match=message):
            build_recognizer(dict(type="PVNASNet", genotype=genotype))
    for chosen in ((), (0, 3)):
        message = "out_indices: expected indices from 0 to 2"
        with pytest.raises(ValueError, match=message):
            PVNASNet(CONTENT, out_indices=chosen)


def test_recognizer_trains_and_predicts() -> None:
    """Loss and scores are those of the parts, computed by hand."""
    model = build_recognizer(dict(type="PVNASNet", genotype=CONTENT))
    model.init_weights()
    samples = [ActionDataSample().set_gt_label(label) for label in (3, 5)]
    model.eval()  # no dropout
    pooled = model.backbone(clip()).mean(dim=(2, 3, 4))
    scores = model.cls_head.fc_cls(pooled)
    losses = model(clip()[:, None], samples, mode="loss")
    expected = nn.functional.cross_entropy(scores, torch.tensor([3, 5]))
    torch.testing.assert_close(losses["loss_cls"], expected)
    losses["loss_cls"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        predicted = model(clip()[:, None], samples, mode="predict")
    for sample, score in zip(predicted, torch.softmax(scores, 1), strict=True):
        torch.testing.assert_close(sample.pred_score, score.detach())


@pytest.mark.parametrize("content", [GENOTYPES["ts"], dict(CONTENT, skeleton=RESNET)])
def test_export_with_any_batch_and_as_one_graph(content: dict[str, Any]) -> None:
    net = make_net(content).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (clip(),), dynamic_shapes=({0: batch},))
    ops = {str(node.target) for node in exported.graph.nodes}
    assert "aten.conv3d.default" in ops and "aten.conv2d.default" not in ops
    for size in (1, 5):
        with torch.no_grad():
            expected = net(clip(size))
            torch.testing.assert_close(exported.module()(clip(size)), expected)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip()), net(clip()))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_genotype(path: Path) -> None:
    """Builds, and states the cost that it has."""
    genotype = load_genotype(path)
    with torch.device("meta"):
        PVNASNet(str(path))
    stated = genotype.provenance
    if "macs" not in stated:
        assert not path.stem.startswith("pvnas"), "what a search found states its cost"
        return
    shape, num_classes = stated["input_shape"], stated["num_classes"]
    cost = network_cost(genotype.skeleton, genotype.blocks, shape, num_classes)
    assert (cost.macs, cost.params) == (stated["macs"], stated["params"])
