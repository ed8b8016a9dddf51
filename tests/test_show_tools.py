"""tools/show_space.py and tools/show_genotype.py, run in this process."""

import itertools
import re
import subprocess
import sys

import pytest
from report_runs import CANDIDATES, SPACE, genotype, write_json
from tool_processes import TOOLS

from pvnas_mmaction.report.layers import format_count
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype
from pvnas_mmaction.space.search_space import SearchSpace

BLOCKS = ["ts_t3_k3_e2_se", "skip", "mb_t5_k3_e2", "skip"]
SHAPE = (3, 8, 32, 32)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the lines of a table that rich has drawn."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


# -- show_genotype -----------------------------------------------------------------


def test_a_network_layer_by_layer_and_its_picture(tmp_path, run_tool):
    path = tmp_path / "[red]/[/x]/g.json"  # brackets in a path are text
    write_json(path, genotype(BLOCKS, accuracy=0.5, seed=3))
    status, out, _ = run_tool("show_genotype", path)
    assert status == 0 and "[red]/[/x]/g.json" in out.replace("\n", "")
    rows = table_rows(out)
    names = [row[0] for row in rows]
    assert names[::5] == ["stem", "last conv"] and names[6:] == ["classifier", "total"]
    assert [row[2] for row in rows[1:5]] == BLOCKS
    assert rows[1][3:6] == ["8x8x16x16", "16x8x8x8", "3"]
    assert rows[3][3:6] == ["16x8x8x8", "24x4x4x4", "5"]
    network = parse_genotype(genotype(BLOCKS))
    cost = network_cost(network.skeleton, BLOCKS, SHAPE, 4)
    assert rows[-1][6] == format_count(cost.macs)
    assert rows[-1][8] == format_count(cost.params)
    shares = [float(row[7].rstrip(" %")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.4)
    for words in ("2 skipped", "temporal reach: 7 frames", "accuracy: 0.5", "seed: 3"):
        assert words in out
    path = path.rename(tmp_path / "g.json")
    out = tmp_path / "new/g.svg"
    status, text, _ = run_tool("show_genotype", path, "--picture", out)
    assert status == 0 and f"drawn: {out}" in text
    assert out.read_bytes().startswith(b"<svg")


# -- show_space --------------------------------------------------------------------


def write_config(path, space=SPACE, **settings) -> None:
    model = dict(backbone=dict(space=space), cls_head=dict(num_classes=4))
    settings = dict(model=model, train_cfg=dict(input_shape=SHAPE)) | settings
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))


def test_a_space_and_its_extremes(tmp_path, run_tool):
    write_config(tmp_path / "c.py")
    (tmp_path / "s.py").write_text(f"space = {SPACE!r}\n")
    arguments = ["--input-shape", *SHAPE, "--cfg-options"]
    arguments.append("model.cls_head.num_classes=4")
    skeleton = SearchSpace.from_config(SPACE).skeleton
    networks = itertools.product(*CANDIDATES)
    costs = [network_cost(skeleton, blocks, SHAPE, 4) for blocks in networks]
    for command in ([tmp_path / "c.py"], [tmp_path / "s.py", *arguments]):
        status, out, _ = run_tool("show_space", *command)
        assert status == 0 and len(costs) == 72 and "networks: 72 (72)" in out
        for unit, field in (("MACs", "macs"), ("parameters", "params")):
            values = [getattr(cost, field) for cost in costs]
            low, high = format_count(min(values)), format_count(max(values))
            assert re.search(f"{unit}: cheapest {low}, .*{high}", out)
        rows = table_rows(out)
        assert rows[0][:5] == ["1", "2", "16", "1, 2", "16x8x8x8"]
        assert "mb_t1_k3_e2 mb3d_t3_k3_e2" in rows[0][5]
        assert "budget" not in out
    _, out, _ = run_tool("show_space", tmp_path / "s.py")
    assert "networks: 72" in out and "give --input-shape C T H W" in out


def test_shipped_spaces(project_root, run_tool):
    for path in sorted((project_root / "configs/pvnas/_base_/spaces").glob("*.py")):
        status, out, _ = run_tool("show_space", path, "--input-shape", 3, 8, 64, 64)
        assert status == 0 and f"space {path.stem}:" in out


def test_in_a_process_of_its_own_only_the_space_is_printed(tmp_path):
    """No warnings of the packages that are imported."""
    write_config(tmp_path / "c.py")
    command = [sys.executable, TOOLS / "show_space.py", tmp_path / "c.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "networks: 72" in done.stdout and done.stderr == ""
