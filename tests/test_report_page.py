# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The page as text, the figures, and the tool that writes them."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from report_runs import (
    genotype,
    write_json,
    write_launch,
    write_search,
    write_training,
)
from test_report_predictions import clips, dump

from pvnas_mmaction.report import page, views
from pvnas_mmaction.report.bokeh_archive import archive_plot, cost_kinds
from pvnas_mmaction.report.bokeh_search import comparison_plot, search_plots
from pvnas_mmaction.report.bokeh_training import training_plots
from pvnas_mmaction.report.figures import (
    archive_figure,
    probability_figure,
    write_figures,
)
from pvnas_mmaction.report.layers import format_count
from pvnas_mmaction.report.palette import run_style
from pvnas_mmaction.report.predictions import for_trainings
from pvnas_mmaction.report.workdir import read_work_dir, read_work_dirs
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype
from pvnas_mmaction.space.latency_table import LatencyTable
from pvnas_mmaction.space.search_space import SearchSpace

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def tool(project_root):
    path = project_root / "tools/report.py"
    spec = importlib.util.spec_from_file_location("report_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_tool(tool, monkeypatch):
    """Run tools/report.py in this process; gives its exit status."""

    def run(*arguments) -> int:
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        try:
            tool.cli.run(tool.main)
        except SystemExit as stop:
            return stop.code
        return 0

    return run


def text_of(page_text: str) -> str:
    """What a reader sees: without scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page_text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def keys_of(page_text: str) -> set[str]:
    return set(re.findall(r'class="plot" id="([^"]+)"', page_text))


def test_a_search_has_all_its_parts(tmp_path):
    run = read_work_dir(write_search(tmp_path / "mine"))
    text = page.render_report([run])
    course = {"diversity", "rates", "gain", "accuracy", "loss", "cost", "skips"}
    assert keys_of(text) == {
        f"run-1-{name}"
        for name in (*course, "network-1", "network-2", "distances", "archive-macs",
                     "archive-parameters", "p-step", "p-overview", "p-layer",
                     "p-detail")
    }  # fmt: skip
    shown = text_of(text)
    for words in (
        "Search report: mine", "finished", "chosen, validation 50.0 %", "2 h 03 min",
        "Cycle 1", "Cycle 2", "chosen", "skipped layers 2 of 4",
        "temporal reach 7 frames", "python tools/train.py toy.py --seed 7",
        "2.9.0+cpu", "budget 1 M MACs", "mode=diversity, num_cycles=2",
        "Config toy.py", "Seed 7", "toy: 72 networks of 4 layers",
        "Mean distance".lower(), "100.0 % of layers differ between two",
    ):  # fmt: skip
        assert words in shown, words
    assert "What is missing" not in shown


def test_the_page_needs_no_network_and_is_small(tmp_path):
    run = read_work_dir(write_search(tmp_path / "mine"))
    text = page.render_report([run])
    assert len(text.encode()) < 3 * MEBIBYTE
    markup = re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', markup)
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet|@import|url\(", markup)


def test_genotypes_can_be_taken_from_the_page(tmp_path):
    run = read_work_dir(write_search(tmp_path / "mine"))
    text = page.render_report([run])
    links = re.findall(
        r'href="data:application/json[^,]*,([^"]+)" download="(.*?)"', text
    )
    files = {name: json.loads(unquote(html.unescape(data))) for data, name in links}
    assert set(files) == {"cycle_01.json", "cycle_02.json"}
    for name, data in files.items():
        on_disk = tmp_path / "mine/search/genotypes" / name
        assert data == json.loads(on_disk.read_text())
    shown = re.search(r'<pre id="run-1-file-1">(.*?)</pre>', text, re.DOTALL)[1]
    assert json.loads(html.unescape(shown)) == files["cycle_01.json"]


def test_cycles_that_found_the_same_share_a_card(tmp_path):
    blocks = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "skip"]
    run_dir = write_search(tmp_path / "a", [blocks, blocks], accuracies=(0.2, None))
    shown = text_of(page.render_report([read_work_dir(run_dir)]))
    assert "Cycles 1, 2" in shown and "20.0 %, n/a" in shown
    assert "1 different" in shown


def test_names_are_text_not_markup(tmp_path):
    run_dir = write_search(tmp_path / "<b>&amp;")
    text = page.render_report([read_work_dir(run_dir)])
    assert "<b>&amp;" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "Search report: <b>&amp;" in text_of(text)


def test_several_runs_are_compared(tmp_path):
    one, two = write_search(tmp_path / "one"), write_search(tmp_path / "two", seed=8)
    trained = write_training(tmp_path / "trained")
    dump(trained / "p.pkl", clips())
    runs = read_work_dirs([one, two, trained])
    text = page.render_report(runs, for_trainings(runs))
    keys = keys_of(text)
    assert {"compare-archive-macs", "compare-diversity"} < keys
    assert {"run-3-confusion", "run-3-class-accuracy", "run-3-loss"} < keys
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "run-1-archive-macs" not in keys and "run-2-distances" in keys
    shown = text_of(text)
    assert "Search report: 3 runs" in shown and "predictions 60.0 % 5 clips" in shown


def test_the_networks_of_a_training_is_drawn(tmp_path):
    run_dir = write_training(tmp_path / "t")
    blocks = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "skip"]
    write_json(tmp_path / "g.json", genotype(blocks))
    os.utime(tmp_path / "g.json", (1, 1))
    (config,) = run_dir.glob("*/vis_data/config.py")
    config.write_text(f"model = dict(backbone=dict(genotype='{tmp_path}/g.json'))\n")
    run = read_work_dir(run_dir)
    assert run.missing == []
    text = page.render_report([run])
    assert "run-1-network-1" in keys_of(text)
    assert "Training report: t" in text_of(text)
    (tmp_path / "g.json").unlink()
    run = read_work_dir(run_dir)
    assert any("g.json: no such genotype file" in line for line in run.missing)
    assert "g.json: no such genotype file" in text_of(page.render_report([run]))


def test_a_training_counts_the_classes_of_its_config(tmp_path):
    """The genotype comes of a search on 4 classes; costs name their input."""
    run_dir = write_training(tmp_path / "t")
    blocks = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "skip"]
    write_json(tmp_path / "g.json", genotype(blocks))
    (config,) = run_dir.glob("*/vis_data/config.py")
    config.write_text(
        f"model = dict(backbone=dict(genotype='{tmp_path}/g.json'),\n"
        "    cls_head=dict(num_classes=1000))\n"
    )
    skeleton = parse_genotype(genotype(blocks)).skeleton
    cost = network_cost(skeleton, blocks, (3, 8, 32, 32), 1000)
    shown = text_of(page.render_report([read_work_dir(run_dir)]))
    assert f"MACs per view of 3x8x32x32 {format_count(cost.macs)}" in shown
    assert f"parameters {format_count(cost.params)}" in shown


def test_a_running_search_says_when_it_wrote_last(tmp_path):
    run = read_work_dir(write_search(tmp_path / "a", finished=False))
    now = datetime(2026, 1, 2, 13, 3, 4)
    shown = text_of(page.render_report([run], now=now))
    assert "not finished" in shown
    assert "last log line 1 h 00 min before this page was made" in shown
    assert "search/genotype.json is not there" in shown


@pytest.mark.parametrize("left", [0, 1, 2])
def test_the_start_of_a_search_gives_a_page(tmp_path, left):
    run_dir = write_search(tmp_path / "a", finished=False)
    history = run_dir / "search/history.jsonl"
    lines = history.read_text().splitlines(keepends=True)[:left]
    history.write_text("".join(lines))
    (run_dir / "search/archive.json").unlink()
    text = page.render_report([read_work_dir(run_dir)])
    assert "no cycle has ended yet" in text_of(text)
    assert ("run-1-p-overview" in keys_of(text)) == (left > 0)


def test_an_empty_directory_gives_a_page(tmp_path):
    text = page.render_report([read_work_dir(tmp_path)])
    assert "The directory is empty" in text_of(text)
    assert keys_of(text) == set() and "Bokeh" not in text[:2000]


def test_accuracies_that_are_not_known(tmp_path):
    run_dir = write_search(tmp_path / "a", accuracies=(None, None))
    text = page.render_report([read_work_dir(run_dir)])
    assert "No network has a validation accuracy" in text_of(text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "run-1-archive-macs" not in keys_of(text)


def test_a_budget_that_is_not_known_is_not_said_to_be_none(tmp_path):
    run_dir = write_search(tmp_path / "a")
    assert "its MACs per view 950 k budget 1 M MACs" in text_of(
        page.render_report([read_work_dir(run_dir)])
    )
    (run_dir / "search/space.json").unlink()
    shown = text_of(page.render_report([read_work_dir(run_dir)]))
    assert "its MACs per view 950 k budget not recorded" in shown


def test_the_data_is_known_before_the_first_network(tmp_path):
    run_dir = write_search(tmp_path / "a", finished=False)
    (run_dir / "search/archive.json").unlink()
    split = dict(seed=7, ann_file="clips/train.txt")
    write_json(run_dir / "search/split.json", split)
    shown = text_of(page.render_report([read_work_dir(run_dir)]))
    assert "Data clips/train.txt" in shown


def test_accuracies_of_the_end_of_a_search_are_called_so(tmp_path):
    """A search that is done has judged all its networks with the last weights."""
    path = write_search(tmp_path / "a") / "search/archive.json"

    def labels() -> set[str]:
        plot = search_plots(read_work_dir(tmp_path / "a"))["accuracy"]
        return {item.label.value for item in plot.legend[0].items}

    assert "validation" in labels()
    archive = json.loads(path.read_text())
    write_json(path, archive | dict(final=archive["entries"][0]))
    assert "validation at the end" in labels()


def test_the_network_of_the_end_of_a_search_is_of_no_cycle(tmp_path):
    path = write_search(tmp_path / "a") / "search/archive.json"
    archive = json.loads(path.read_text())
    last = archive["entries"][-1]
    final = last | dict(blocks=[*last["blocks"][:-1], "skip"], file="genotype.json")
    assert final["blocks"] != last["blocks"]
    write_json(path, archive | dict(final=final))
    kind, *_ = cost_kinds(lambda network: None)
    plot = archive_plot([read_work_dir(tmp_path / "a")], kind)
    (origins,) = (
        r.data_source.data["origin"]
        for r in plot.renderers
        if "origin" in r.data_source.data
    )
    assert list(origins) == ["cycle 1", "cycle 2", "its end"]


def test_a_search_has_one_color_in_all_comparisons(tmp_path):
    runs = read_work_dirs([write_search(tmp_path / name) for name in "abc"])
    runs[0].history = []
    plot = comparison_plot(runs, "diversity", "D", "share")
    drawn = {
        item.label.value: item.renderers[0].glyph.line_color
        for item in plot.legend[0].items
    }
    assert drawn == {"b": run_style(1)[0], "c": run_style(2)[0]}


def latency_table(run) -> LatencyTable:
    space: SearchSpace = run.space
    rows = [[0.5 + i for i in range(len(row))] for row in space.candidates]
    return LatencyTable(space.to_config(), list(run.input_shape), 0.25, rows)


def test_latency_comes_from_a_table_or_from_the_file(tmp_path):
    run = read_work_dir(write_search(tmp_path / "a"))
    network = run.networks[0].genotype
    assert views.latency_of(network) is None
    table = latency_table(run)
    # ts is the third candidate, skip the fourth and the third.
    assert views.latency_of(network, table) == (0.25 + 2.5 + 3.5 + 0.5 + 2.5,
                                                [2.5, 3.5, 0.5, 2.5])  # fmt: skip
    table.save(tmp_path / "table.json")
    assert views.read_table(tmp_path / "table.json") == table
    text = page.render_report([run], table=table)
    assert "run-1-archive-latency" in keys_of(text)
    assert "latency 9.25 ms" in text_of(text)
    path = tmp_path / "a/search/genotypes/cycle_01.json"
    write_json(path, genotype(list(network.blocks), latency_ms=4.5))
    read = read_work_dir(tmp_path / "a").networks[0].genotype
    assert views.latency_of(read) == (4.5, None)


def test_a_table_of_another_input_shape_tells_no_latency(tmp_path):
    run = read_work_dir(write_search(tmp_path / "a"))
    table = replace(latency_table(run), input_shape=[3, 16, 64, 64])
    assert views.latency_of(run.networks[0].genotype, table) is None
    shown = text_of(page.render_report([run], table=table))
    assert "No latency is known" in shown and "of their space and input" in shown


def test_a_known_latency_without_an_accuracy_is_not_called_unknown(tmp_path):
    run = read_work_dir(write_search(tmp_path / "a", accuracies=(None, None)))
    shown = text_of(page.render_report([run], table=latency_table(run)))
    assert "latency 9.25 ms" in shown
    assert "No latency is known" not in shown


def test_a_wrong_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.json: no such latency table"):
        views.read_table(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(
        ValueError, match=r"bad.json: .*expected a table of tools/build"
    ):
        views.read_table(tmp_path / "bad.json")


def test_long_searches_stay_small(tmp_path):
    names = [f"mb_t{t}_k{k}_e{e}" for t in (1, 3, 5) for k in (3, 5) for e in (3, 6)]
    stage = dict(out_channels=16, num_layers=10, spatial_stride=1, temporal_stride=1)
    stages = [dict(stage, candidates=names), dict(stage, candidates=names)]
    space = dict(
        name="large",
        stem=dict(channels=16),
        head_channels=32,
        in_channels=3,
        stages=stages,
    )
    networks = [[names[(i + j) % 12] for j in range(20)] for i in range(4)]
    paths = [
        write_search(tmp_path / str(i), networks, (0.1, 0.2, 0.3, 0.4), lines=300,
                     space=space, candidates=[names] * 20)
        for i in range(3)
    ]  # fmt: skip
    text = page.render_report(read_work_dirs(paths))
    assert len(text.encode()) < 3 * MEBIBYTE


def test_the_tool_writes_page_and_figures(tmp_path, run_tool, capsys):
    search = write_search(tmp_path / "s")
    training = write_training(tmp_path / "t")
    dump(training / "p.pkl", clips())
    out = tmp_path / "new/report.html"
    arguments = [search, training, "--out", out, "--figures", tmp_path / "figures"]
    assert run_tool(*arguments) == 0
    assert "report.html: 1." in capsys.readouterr().out
    assert out.read_text().startswith("<!DOCTYPE html>")
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("s_networks", "s_course", "s_probabilities", "s_distances",
             "t_curves", "t_confusion", "archive_macs",
             "archive_parameters")  # fmt: skip
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in (tmp_path / "figures").glob("*.svg"):
        assert path.read_text().rstrip().endswith("</svg>")


def test_no_run_overwrites_the_figures_of_another(tmp_path):
    runs = [write_training(tmp_path / name) for name in ("a b", "a_b")]
    paths = write_figures(read_work_dirs(runs), tmp_path / "figures")
    assert len(set(paths)) == len(paths) == 4
    assert {path.stem for path in paths} == {"a_b_curves", "a_b_2_curves"}


def test_figures_take_names_as_they_are(tmp_path):
    """A dollar begins no formula, and an underscore hides no name."""
    runs = [write_search(tmp_path / name) for name in ("_a", "$\\frac{$", "c$x$")]
    figure = archive_figure(read_work_dirs(runs), cost_kinds(lambda network: None)[0])
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["Pareto front", "_a", "$\\frac{$", "c$x$"]
    paths = write_figures(read_work_dirs(runs), tmp_path / "figures")
    (svg,) = [path for path in paths if path.name == "archive_macs.svg"]
    for name in ("_a", "$\\frac{$", "c$x$"):
        assert f">{name}</text>" in svg.read_text()


def test_columns_of_p_in_a_figure_begin_at_their_steps(tmp_path):
    path = write_search(tmp_path / "s", lines=3)
    history = path / "search/history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]
    for record, step in zip(records, (0, 10, 20, 30, 40, 43), strict=True):
        record["step"] = step
    history.write_text("".join(json.dumps(record) + "\n" for record in records))
    figure = probability_figure(read_work_dir(path))
    (mesh,) = figure.axes[2].collections
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 10, 20, 30, 40, 43, 46]
    assert mesh.get_array().T.tolist() == [r["p"][2] for r in records]


def test_the_mean_of_a_long_training_is_one_of_logged_steps(tmp_path):
    """Not of the points that are left to draw."""
    steps = range(1, 1501)
    lines = [dict(top1_acc=i % 7, epoch=1, iter=i, step=i) for i in steps]
    write_launch(tmp_path / "t", scalars=lines)
    plot = training_plots(read_work_dir(tmp_path / "t"))["accuracy"]
    data = plot.renderers[0].data_source.data
    assert len(data["step"]) == 600
    for step, value in zip(data["step"], data["value"], strict=True):
        last = [i % 7 for i in range(max(1, int(step) - 9), int(step) + 1)]
        assert value == pytest.approx(sum(last) / len(last), abs=1e-6)


@pytest.mark.parametrize("fails", ["chromium", "page", "selenium"])
def test_a_picture_that_can_t_be_taken_ends_in_a_sentence(tmp_path, fails):
    for name in ("chromium", "chromedriver"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "r.html").write_text("<html></html>")
    if fails == "selenium":
        (tmp_path / "selenium.py").write_text("raise ImportError('no')")
    tool = Path(__file__).parent.parent / "tools/screenshot_report.py"
    report = tmp_path / ("none.html" if fails == "page" else "r.html")
    done = subprocess.run(
        [sys.executable, tool, report, "--out", tmp_path / "r.png"],
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    expected = {
        "chromium": "error: Chromium does not start: ",
        "page": f"error: {report}: no such report",
        "selenium": "error: found no selenium, expected it",
    }
    assert line.startswith(expected[fails])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["{tmp}"], "found neither search/ nor a folder <date>_<time>"),
        (["{tmp}/s", "--predictions", "x.pkl"], "found 0 training directories"),
        (["{tmp}/s", "--latency-table", "x.json"], "x.json: no such latency table"),
    ],
)
def test_the_tool_refuses_what_is_wrong(tmp_path, run_tool, capsys, arguments, message):
    write_search(tmp_path / "s")
    out = tmp_path / "report.html"
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run_tool(*filled, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error.splitlines()[0]
    assert not out.exists()
