# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A network layer by layer, and its drawing, against the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from report_runs import genotype

from pvnas_mmaction.models.pvnas_net import PVNASNet
from pvnas_mmaction.report.drawing import dearest_layer, draw_network
from pvnas_mmaction.report.layers import (
    format_count,
    layer_rows,
    temporal_reach,
    total,
)
from pvnas_mmaction.report.palette import FAMILY_COLORS, OTHER_COLOR, RUN_COLORS
from pvnas_mmaction.report.picture import (
    figure_array,
    figure_bytes,
    network_figure,
    save_figure,
)
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype

MIXED = ["ts_t3_k3_e2_se", "mb3d_t3_k3_e2", "rb_t3_k3_e0.5", "skip"]
FLAT = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "mb_t5_k3_e2"]


@pytest.mark.parametrize("blocks", [MIXED, FLAT])
def test_rows_add_up_to_the_network(blocks):
    network = parse_genotype(genotype(blocks))
    rows = layer_rows(network)
    cost = network_cost(network.skeleton, blocks, (3, 8, 32, 32), 4)
    assert total(rows) == (cost.macs, cost.params)
    backbone = PVNASNet(genotype(blocks))
    counted = sum(p.numel() for p in backbone.parameters())
    assert sum(row.params for row in rows[:-1]) == counted
    assert rows[-1].name == "classifier" and rows[-1].params == 33 * 4


def test_shapes_are_those_of_the_network():
    backbone = PVNASNet(genotype(MIXED), out_indices=(0, 1, 2)).eval()
    with torch.no_grad():
        outputs = backbone(torch.zeros(1, 3, 8, 32, 32))
    rows = layer_rows(parse_genotype(genotype(MIXED)))
    shapes = [rows[i].out_shape for i in (2, 4, 5)]  # ends of stages, last conv
    assert shapes == [tuple(output.shape[1:]) for output in outputs]


def test_without_a_shape_parameters_alone_are_known():
    data = genotype(FLAT)
    data["provenance"] = {}
    rows = layer_rows(parse_genotype(data))
    with_shape = layer_rows(parse_genotype(data), (3, 4, 16, 16))
    assert [row.params for row in rows] == [row.params for row in with_shape]
    assert {row.macs for row in rows} == {row.out_shape for row in rows} == {None}
    assert total(rows)[0] is None
    assert [row.name for row in rows][-1] == "last conv"  # no number of classes
    assert len(draw_network(rows).slabs) == 1 + 1 + 5 + 5 + 1


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


def test_reach_grows_with_the_stride_before_it():
    data = genotype(["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "mb_t5_k3_e2"])
    # Five frames, then five more that lie two apart.
    assert temporal_reach(parse_genotype(data)) == 1 + 4 + 4 * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (0, "0"), (999, "999"), (1234, "1.23 k"), (45_600_000, "45.6 M"),
     (2e9, "2 G"), (14.5e12, "14.5 T"), (1.25, "1.25"), (999_499, "999 k"),
     (999_600, "1 M"), (999.7, "1 k"), (9.999e14, "1e+15")],
)  # fmt: skip
def test_counts_are_short(value, text):
    assert format_count(value) == text


def test_a_block_is_as_high_as_its_kernel_and_as_wide_as_its_macs():
    rows = layer_rows(parse_genotype(genotype(FLAT)))
    drawing = draw_network(rows)
    slabs = {
        slot.index: [s for s in drawing.slabs if slot.index < s.left < slot.index + 1]
        for slot in drawing.slots
    }
    assert [len(slabs[i]) for i in range(6)] == [1, 1, 0, 5, 5, 1]
    assert [slot.skipped for slot in drawing.slots].index(True) == 2
    widths = {i: s[0].right - s[0].left for i, s in slabs.items() if s}
    # Narrow ones are widened to stay visible: compare such as are not.
    wide = [i for i in widths if widths[i] > 0.1]
    assert len(wide) >= 3
    for i in wide:
        assert widths[i] / widths[wide[0]] == pytest.approx(
            rows[i].macs / rows[wide[0]].macs
        )
    tops = [slab.top for slab in slabs[3]]
    assert max(tops) - min(s.bottom for s in slabs[3]) == pytest.approx(5, abs=0.3)


def test_families_differ_in_color_and_in_shape():
    drawing = draw_network(layer_rows(parse_genotype(genotype(MIXED))))
    ts, mb3d, rb = (
        [s for s in drawing.slabs if i < (s.left + s.right) / 2 < i + 1]
        for i in (1, 2, 3)
    )
    assert [len(ts), len(mb3d), len(rb)] == [3, 1, 3]
    assert len({slab.left for slab in ts}) == 3 and len({s.left for s in rb}) == 1
    assert mb3d[0].top - mb3d[0].bottom > 2
    assert all(slab.hatched for slab in rb)
    assert {s.color for s in ts + mb3d + rb} == {
        FAMILY_COLORS[name] for name in ("ts", "mb3d", "rb")
    }
    assert drawing.slots[1].squeezed and not drawing.slots[2].squeezed
    assert [(b.left, b.right) for b in drawing.bands] == [(1, 3), (3, 5)]


def test_networks_share_a_scale():
    both = [layer_rows(parse_genotype(genotype(b))) for b in (MIXED, FLAT)]
    widest = dearest_layer(both)
    assert widest == max(row.macs for rows in both for row in rows)
    drawings = [draw_network(rows, widest) for rows in both]
    stems = [d.slabs[0].right - d.slabs[0].left for d in drawings]
    assert stems[0] == stems[1]


# Viénot, Brettel and Mollon (1999): linear RGB as seen without red or green cones.
BLINDNESS = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0],
                   [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0],
                     [-0.02234, 0.02234, 1]],
    "none": np.eye(3),
}  # fmt: skip


def _lab(color: str, kind: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[kind]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
              [0.0193, 0.1192, 0.9505]]  # fmt: skip
    xyz = np.array(to_xyz) @ linear / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colors_differ_for_color_blind_readers(kind):
    families = [*FAMILY_COLORS.values(), OTHER_COLOR]
    for colors in (families, RUN_COLORS[:4]):
        seen = [_lab(color, kind) for color in colors]
        apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(apart) > 15  # about 2 can just be told apart


def test_a_picture_shows_the_colors_of_its_blocks(tmp_path):
    drawing = draw_network(layer_rows(parse_genotype(genotype(MIXED))))
    image = figure_array(network_figure([("a title", drawing)]))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    colors = {f"#{r:02X}{g:02X}{b:02X}" for r, g, b in image.reshape(-1, 3)}
    assert {FAMILY_COLORS["ts"], FAMILY_COLORS["mb3d"], FAMILY_COLORS["rb"]} < colors
    save_figure(network_figure([("a title", drawing)]), tmp_path / "deep/a.png")
    assert (tmp_path / "deep/a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"found the ending '.bmp', expected .png, .s"):
        save_figure(network_figure([("a title", drawing)]), tmp_path / "a.bmp")


def test_the_same_figure_gives_the_same_file():
    drawing = draw_network(layer_rows(parse_genotype(genotype(MIXED))))
    first, second = (
        figure_bytes(network_figure([("t", drawing)]), "svg") for _ in range(2)
    )
    assert first == second and b"mb3d" in first
