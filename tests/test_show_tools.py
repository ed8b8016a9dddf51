# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""tools/show_space.py and tools/show_genotype.py, run in this process."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys

import pytest
from report_runs import CANDIDATES, SPACE, genotype, write_json

from pvnas_mmaction.report.layers import format_count
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype
from pvnas_mmaction.space.latency_table import LatencyTable
from pvnas_mmaction.space.search_space import SearchSpace

BLOCKS = ["ts_t3_k3_e2_se", "skip", "mb_t5_k3_e2", "skip"]
SHAPE = (3, 8, 32, 32)


@pytest.fixture
def run_tool(project_root, monkeypatch, capsys):
    """Run a tool; gives exit status, output and errors."""

    def run(name: str, *arguments) -> tuple[int, str, str]:
        path = project_root / "tools" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
        status = 0
        try:
            module.cli.run(module.main)
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def table_rows(text: str) -> list[list[str]]:
    """Cells of the lines of a table that rich has drawn."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


# -- show_genotype ---------------------------------------------------------------


def test_a_network_layer_by_layer(tmp_path, run_tool):
    write_json(tmp_path / "g.json", genotype(BLOCKS, accuracy=0.5, seed=3))
    status, out, _ = run_tool("show_genotype", tmp_path / "g.json")
    assert status == 0
    rows = table_rows(out)
    assert [row[0] for row in rows] == [
        "stem", "layer 0", "layer 1", "layer 2", "layer 3", "last conv", "classifier",
        "total",
    ]  # fmt: skip
    assert [row[2] for row in rows[1:5]] == BLOCKS
    assert rows[1][3:6] == ["8x8x16x16", "16x8x8x8", "3"]
    assert rows[3][3:6] == ["16x8x8x8", "24x4x4x4", "5"]
    network = parse_genotype(genotype(BLOCKS))
    cost = network_cost(network.skeleton, BLOCKS, SHAPE, 4)
    assert rows[-1][6] == format_count(cost.macs)
    assert rows[-1][8] == format_count(cost.params)
    assert sum(float(row[7].rstrip(" %")) for row in rows[:-1]) == pytest.approx(
        100, abs=0.4
    )
    for words in ("2 skipped", "temporal reach: 7 frames", "accuracy: 0.5", "seed: 3"):
        assert words in out


def test_another_shape_and_number_of_classes(tmp_path, run_tool):
    write_json(tmp_path / "g.json", genotype(BLOCKS))
    arguments = [tmp_path / "g.json", "--input-shape", 3, 16, 64, 64]
    _, out, _ = run_tool("show_genotype", *arguments, "--num-classes", 100)
    cost = network_cost(
        parse_genotype(genotype(BLOCKS)).skeleton, BLOCKS, (3, 16, 64, 64), 100
    )
    assert table_rows(out)[-1][6] == format_count(cost.macs)
    assert table_rows(out)[-2][4] == "100x1x1x1"


def test_without_a_shape_it_asks_for_one(tmp_path, run_tool):
    data = genotype(BLOCKS)
    data["provenance"] = {}
    write_json(tmp_path / "g.json", data)
    _, out, _ = run_tool("show_genotype", tmp_path / "g.json")
    assert "give --input-shape C T H W" in out
    assert table_rows(out)[-1][6] == "n/a"


def test_latency_from_a_table(tmp_path, run_tool):
    write_json(tmp_path / "g.json", genotype(BLOCKS))
    space = SearchSpace.from_config(SPACE)
    rows = [[1.5 * (i + 1) for i in range(len(row))] for row in CANDIDATES]
    LatencyTable(space.to_config(), list(SHAPE), 0.25, rows).save(tmp_path / "t.json")
    arguments = [tmp_path / "g.json", "--latency-table", tmp_path / "t.json"]
    status, out, _ = run_tool("show_genotype", *arguments)
    assert status == 0
    cells = [row[9] for row in table_rows(out)]
    assert cells == ["", "4.500", "6.000", "1.500", "4.500", "", "", "16.750"]
    other = genotype(BLOCKS)
    other["space"] = "other"
    write_json(tmp_path / "g.json", other)
    status, _, error = run_tool("show_genotype", *arguments)
    assert status == 2 and "space: expected 'toy', got 'other'" in error


def test_a_table_of_another_input_shape_is_refused(tmp_path, run_tool):
    write_json(tmp_path / "g.json", genotype(BLOCKS))
    space = SearchSpace.from_config(SPACE)
    rows = [[1.5] * len(row) for row in CANDIDATES]
    other = [3, 16, 64, 64]
    LatencyTable(space.to_config(), other, 0.25, rows).save(tmp_path / "t.json")
    arguments = [tmp_path / "g.json", "--latency-table", tmp_path / "t.json"]
    status, _, error = run_tool("show_genotype", *arguments)
    assert status == 2
    assert "shape [3, 16, 64, 64], expected [3, 8, 32, 32]" in error
    status, _, _ = run_tool("show_genotype", *arguments, "--input-shape", *other)
    assert status == 0


def test_brackets_in_a_path_are_text(tmp_path, run_tool):
    path = tmp_path / "[red]/[/x]/g.json"
    write_json(path, genotype(BLOCKS))
    status, out, _ = run_tool("show_genotype", path)
    assert status == 0 and "[red]/[/x]/g.json" in out.replace("\n", "")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture(tmp_path, run_tool, ending):
    write_json(tmp_path / "g.json", genotype(BLOCKS))
    out = tmp_path / f"new/g.{ending}"
    status, text, _ = run_tool("show_genotype", tmp_path / "g.json", "--picture", out)
    assert status == 0 and f"drawn: {out}" in text
    head = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert out.read_bytes().startswith(head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra=1), "g.json, unknown key: expected a key out of"),
        (lambda d: d["blocks"].pop(), "g.json: blocks: expected 4 blocks"),
        (
            lambda d: d["blocks"].__setitem__(0, "mb_t2_k3_e2"),
            "g.json: blocks[0]: expected t odd",
        ),
        (
            lambda d: d["blocks"].__setitem__(2, "skip"),
            "blocks[2]: expected an operation",
        ),
        (lambda d: d.update(format_version=9), "format_version: expected 2, got 9"),
        (
            lambda d: d["provenance"].update(input_shape=[1, 8, 32, 32]),
            "input_shape: expected C = 3",
        ),
    ],
)
def test_a_wrong_genotype_is_named(tmp_path, run_tool, change, message):
    data = json.loads(json.dumps(genotype(BLOCKS)))
    change(data)
    write_json(tmp_path / "g.json", data)
    status, out, error = run_tool("show_genotype", tmp_path / "g.json")
    assert status == 2 and out == ""
    assert error.startswith("error: ") and message in error.splitlines()[0]


def test_a_file_that_is_none(tmp_path, run_tool):
    status, _, error = run_tool("show_genotype", tmp_path / "none.json")
    assert status == 2 and "none.json: no such genotype file" in error
    (tmp_path / "half.json").write_text('{"format_version": 1,')
    status, _, error = run_tool("show_genotype", tmp_path / "half.json")
    assert status == 2 and "half.json: line 1, column 22" in error
    status, _, error = run_tool(
        "show_genotype", tmp_path / "half.json", "--num-classes", 0
    )
    assert status == 2 and "--num-classes: found 0, expected a number from" in error


# -- show_space ------------------------------------------------------------------


def write_config(path, space=SPACE, **settings) -> None:
    settings = {
        "model": dict(
            backbone=dict(type="PVNASSupernet", space=space),
            cls_head=dict(num_classes=4),
        ),
        "train_cfg": dict(type="SearchLoop", input_shape=SHAPE),
        **settings,
    }
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))


def all_costs() -> list:
    """MACs and parameters of each of the 72 networks, one by one."""
    skeleton = SearchSpace.from_config(SPACE).skeleton
    return [
        network_cost(skeleton, blocks, SHAPE, 4)
        for blocks in itertools.product(*CANDIDATES)
    ]


def test_a_space_and_its_extremes(tmp_path, run_tool):
    write_config(tmp_path / "c.py")
    status, out, _ = run_tool("show_space", tmp_path / "c.py")
    assert status == 0
    costs = all_costs()
    assert len(costs) == 72 and "networks: 72 (72)" in out
    for unit, field in (("MACs", "macs"), ("parameters", "params")):
        values = [getattr(cost, field) for cost in costs]
        low, high = format_count(min(values)), format_count(max(values))
        assert f"{unit}: cheapest {low}, most expensive {high}" in out
    rows = table_rows(out)
    assert rows[0][:5] == ["1", "2", "16", "1, 2", "16x8x8x8"]
    assert rows[0][5].startswith("4: mb_t1_k3_e2 mb3d_t3_k3_e2")
    assert "budget: none in the config" in out


def test_the_place_of_a_budget(tmp_path, run_tool):
    macs = sorted(cost.macs for cost in all_costs())
    budget = (macs[0] + macs[-1]) // 2
    cost = dict(kind="flops", budget=budget)
    write_config(tmp_path / "c.py", train_cfg=dict(input_shape=SHAPE, cost=cost))
    _, out, _ = run_tool("show_space", tmp_path / "c.py")
    assert "50.0 % of the way from cheapest to most expensive" in out
    # Every network is equally likely to be drawn.
    share = 100 * sum(value <= budget for value in macs) / len(macs)
    found = float(re.search(r"([\d.]+) % of 10000 networks", out)[1])
    assert found == pytest.approx(share, abs=2)
    option = "train_cfg.cost.budget"
    for value, words in ((macs[0] - 1, "none keeps it"), (macs[-1], "every one keeps")):
        arguments = ["--cfg-options", f"{option}={value}"]
        _, out, _ = run_tool("show_space", tmp_path / "c.py", *arguments)
        assert words in out


def test_a_latency_budget(tmp_path, run_tool):
    space = SearchSpace.from_config(SPACE)
    rows = [[float(i + 1) for i in range(len(row))] for row in CANDIDATES]
    LatencyTable(space.to_config(), list(SHAPE), 1.0, rows).save(tmp_path / "t.json")
    cost = dict(kind="latency", budget=9.0, table=str(tmp_path / "t.json"))
    write_config(tmp_path / "c.py", train_cfg=dict(input_shape=SHAPE, cost=cost))
    _, out, _ = run_tool("show_space", tmp_path / "c.py")
    # 1 + 4 layers of 1; 1 + 3 + 4 + 2 + 3.
    assert "ms: cheapest 5, most expensive 13" in out
    assert "budget: 9 ms, 50.0 % of the way" in out


def test_a_space_alone_needs_a_shape_for_costs(tmp_path, run_tool):
    (tmp_path / "s.py").write_text(f"space = {SPACE!r}\n")
    _, out, _ = run_tool("show_space", tmp_path / "s.py")
    assert "networks: 72" in out and "give --input-shape C T H W" in out
    _, out, _ = run_tool(
        "show_space", tmp_path / "s.py", "--input-shape", *SHAPE, "--num-classes", 4
    )
    low = min(cost.macs for cost in all_costs())
    assert f"MACs: cheapest {format_count(low)}" in out


@pytest.mark.parametrize("name", ["tiny", "compact", "light", "medium"])
def test_shipped_spaces(project_root, run_tool, name):
    path = project_root / f"configs/pvnas/_base_/spaces/{name}.py"
    status, out, _ = run_tool("show_space", path, "--input-shape", 3, 8, 64, 64)
    assert status == 0 and f"space {name}:" in out


def broken(**changes) -> dict:
    return {**json.loads(json.dumps(SPACE)), **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\n", "found neither model.backbone.space nor space"),
        ("space = dict(name='x')\n", "the key 'stem' as well"),
        (
            f"space = {broken(extra=1)!r}\n",
            "space 'toy', unknown key: expected",
        ),
        (
            f"space = {broken(stages=[dict(SPACE['stages'][0], candidates=['x'])])!r}",
            "stages[0].candidates: expected 'skip' or FAMILY",
        ),
        (f"space = {SPACE!r}\ntrain_cfg = dict(input_shape=(1, 2, 3, 4))", "C = 3"),
        ("space = dict(\n", "c.py"),
    ],
)
def test_a_wrong_space_is_named(tmp_path, run_tool, text, message):
    (tmp_path / "c.py").write_text(text)
    status, out, error = run_tool("show_space", tmp_path / "c.py")
    assert status == 2 and out == ""
    assert error.startswith("error: ") and message in error.splitlines()[0]


@pytest.mark.parametrize("option", ["train_cfg.a.b=1", "space.stages.99.x=1"])
def test_an_option_that_does_not_fit_is_named(tmp_path, run_tool, option):
    (tmp_path / "c.py").write_text(f"space = {SPACE!r}\ntrain_cfg = dict(a=1)\n")
    command = ("show_space", tmp_path / "c.py", "--cfg-options", option)
    status, out, error = run_tool(*command)
    assert status == 2 and out == ""
    assert error.startswith("error: --cfg-options: ")


@pytest.mark.parametrize("tool", ["show_space", "show_genotype"])
def test_in_a_process_of_its_own(project_root, tmp_path, tool):
    done = subprocess.run(
        [sys.executable, project_root / f"tools/{tool}.py", tmp_path / "none"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(r"^error: .*none", done.stderr, re.MULTILINE)
