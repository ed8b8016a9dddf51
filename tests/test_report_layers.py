"""A network layer by layer, and its drawing, against the network itself."""

import json

import cv2
import numpy as np
import pytest
import torch
from report_runs import genotype

from pvnas_mmaction.models.pvnas_net import PVNASNet
from pvnas_mmaction.report.drawing import family_colors, network_plot
from pvnas_mmaction.report.layers import layer_rows, temporal_reach, total
from pvnas_mmaction.report.plot import figure_bytes, save_figure
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype

MIXED = ["ts_t3_k3_e2_se", "mb3d_t3_k3_e2", "rb_t3_k3_e0.5", "skip"]
FLAT = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "mb_t5_k3_e2"]


def rows_of(blocks: list[str], **changes):
    return layer_rows(parse_genotype(genotype(blocks) | changes))


@pytest.mark.parametrize("blocks", [MIXED, FLAT])
def test_rows_add_up_to_the_network_and_have_its_shapes(blocks):
    rows = rows_of(blocks)
    skeleton = parse_genotype(genotype(blocks)).skeleton
    cost = network_cost(skeleton, blocks, (3, 8, 32, 32), 4)
    assert total(rows) == cost
    backbone = PVNASNet(genotype(blocks), out_indices=(0, 1, 2)).eval()
    counted = sum(p.numel() for p in backbone.parameters())
    assert sum(row.cost.params for row in rows[:-1]) == counted
    assert rows[-1].name == "classifier" and rows[-1].cost.params == 33 * 4
    assert rows[0].block == "conv 1x3x3, stride 1x2x2"
    with torch.no_grad():
        outputs = backbone(torch.zeros(1, 3, 8, 32, 32))
    shapes = [rows[i].out_shape for i in (2, 4, 5)]  # ends of stages, last conv
    assert shapes == [tuple(output.shape[1:]) for output in outputs]


@pytest.mark.parametrize(
    "blocks", [["ts_t3_k3_e2", "mb3d_t3_k3_e2", "rb_t3_k3_e0.5", "skip"], FLAT]
)
def test_temporal_reach_is_that_of_the_gradient(blocks):
    torch.manual_seed(0)
    data = genotype(blocks)
    data["skeleton"]["stages"][1]["temporal_stride"] = 1
    network = PVNASNet(data).eval()
    for parameter in network.parameters():  # none that is zero at the start
        torch.nn.init.normal_(parameter, std=0.2)
    clip = torch.randn(1, 3, 31, 16, 16, requires_grad=True)
    network(clip)[:, :, 15].sum().backward()
    seen = clip.grad.abs().sum(dim=(0, 1, 3, 4)) > 0
    assert int(seen.sum()) == temporal_reach(parse_genotype(data))


def test_a_drawing_names_blocks_stages_and_parts(tmp_path):
    text = json.dumps(network_plot(rows_of(MIXED)).spec)
    for words in ("ts\\nt3 k3\\ne2", "rb\\nt3 k3\\ne0.5", '"label": "skip"', "stage 1",
                  "stage 2", "layer 1: mb3d_t3_k3_e2", "temporal shift, conv 1x1x1,",
                  "16x8x8x8 \\u2192 16x8x8x8"):  # fmt: skip
        assert words in text, words
    # One block with squeeze-and-excitation: a dot above its three frames.
    (dot,) = (layer["data"]["values"] for layer in network_plot(rows_of(MIXED)).spec[
        "layer"] if layer["mark"]["type"] == "point")  # fmt: skip
    assert dot == [dict(x=1.5, y=0.9)]
    # A picture shows the colors of its blocks.
    plot = network_plot(rows_of(MIXED), "a title")
    data = np.frombuffer(figure_bytes(plot, ".png"), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    colors = {f"#{r:02X}{g:02X}{b:02X}" for b, g, r in image.reshape(-1, 3)}
    assert {family_colors()[name] for name in ("ts", "mb3d", "rb")} < colors
    heads = dict(png=b"\x89PNG", svg=b"<svg", pdf=b"%PDF")
    for kind, head in heads.items():
        save_figure(plot, tmp_path / f"deep/a.{kind}")
        assert (tmp_path / f"deep/a.{kind}").read_bytes().startswith(head)
    with pytest.raises(ValueError, match=r"a.bmp: expected .* .png, .svg.*got '.bmp'"):
        save_figure(plot, tmp_path / "a.bmp")
    # The same figure gives the same file.
    assert figure_bytes(plot, ".svg") == (tmp_path / "deep/a.svg").read_bytes()
