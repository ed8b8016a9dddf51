"""The page as text, and the tool that writes it and the figures."""

import html
import json
import re

import pytest
from report_runs import genotype, write_json, write_launch, write_search, write_training
from test_report_predictions import clips, dump

from pvnas_mmaction.report.data import read_work_dirs
from pvnas_mmaction.report.layers import format_count
from pvnas_mmaction.report.page import Report
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import parse_genotype


@pytest.fixture(autouse=True, scope="module")
def no_library():
    """The library is the same on every page, and takes seconds to bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vl_convert.javascript_bundle", lambda: "/* library */")
        yield


def render(*paths, **settings) -> str:
    return Report(read_work_dirs(paths)).render(**settings)


def text_of(page: str) -> str:
    """What a reader sees: without scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def keys_of(page: str) -> set[str]:
    found = set(re.findall(r'class="plot" id="([^"]+)"', page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    specs = re.search(r'id="specs">(.*?)</script>', page, re.DOTALL)
    assert found == (set(json.loads(specs[1])["specs"]) if specs else set())
    return found


def test_a_search_has_all_its_parts(tmp_path):
    path = write_search(tmp_path / "mine")
    values = dict(skips=0.25, gap=-1.5, agreement=0.333, stability=None)
    write_json(path / "search/diagnostics.json", values)
    page = render(path)
    course = {"diversity", "rates", "gain", "accuracy", "loss", "cost", "skips"}
    assert keys_of(page) == {
        f"run-1-{name}"
        for name in (*course, "network-1", "network-2", "distances", "archive-flops",
                     "archive-params", "p-overview", "p-detail")
    }  # fmt: skip
    shown = text_of(page)
    for words in (
        "Search report: mine", "finished", "chosen, validation 50.0 %", "2:03:04",
        "cycle 2, inherited weights", "Cycle 1", "Cycle 2 chosen",
        "skipped layers 2 of 4", "temporal reach 7 frames", "Seed 7", "Config toy.py",
        "python tools/train.py toy.py --seed 7", "2.9.0+cpu", "budget 1 M MACs",
        "mode=diversity, num_cycles=2", "toy: 72 networks of 4 layers",
        "mean distance 100.0 % of layers differ between", "Started 2026-01-02 10:00",
        "clips/train.txt: 5 clips train the weights, 4 the alphas",
        "layer 2 (stage 2, 24 channels)", "Step 230 (cycle 2)", "skips 0.25 share",
        "gap -1.50", "agreement 0.33", "stability n/a",
    ):  # fmt: skip
        assert words in shown, words
    assert "What is missing" not in shown and "missed its plan" not in shown
    # It needs no network.
    markup = re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', markup)
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet|@import|url\(", markup)


def test_names_are_text_not_markup(tmp_path):
    page = render(write_search(tmp_path / "<b>&amp;"))
    assert "<b>&amp;" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert page.count("</script>") == 3
    assert "Search report: <b>&amp;" in text_of(page)


def test_several_runs_are_compared(tmp_path):
    one, two = write_search(tmp_path / "one"), write_search(tmp_path / "two", seed=8)
    trained = write_training(tmp_path / "trained")
    dump(trained / "p.pkl", clips())
    page = render(one, two, trained)
    keys, shown = keys_of(page), text_of(page)
    assert {"compare-archive-flops", "compare-diversity"} < keys
    assert {"run-3-confusion", "run-3-class-accuracy", "run-3-loss"} < keys
    assert "run-1-archive-flops" not in keys and "run-2-distances" in keys
    assert "Search report: 3 runs" in shown and "predictions 60.0 % 5 clips" in shown


def test_latency_is_that_of_the_search_or_of_the_file(tmp_path):
    path = write_search(tmp_path / "a")
    assert "run-1-archive-latency" not in keys_of(render(path))
    archive = json.loads((path / "search/archive.json").read_text())
    archive["entries"][0]["costs"]["latency"] = 9.25
    write_json(path / "search/archive.json", archive)
    file = path / "search/genotypes/cycle_02.json"
    write_json(file, json.loads(file.read_text()) | dict(provenance=dict(latency_ms=4)))
    page = render(path)
    assert "run-1-archive-latency" in keys_of(page)
    assert "latency 9.25 ms" in text_of(page) and "latency 4.00 ms" in text_of(page)


def test_the_tool_writes_the_page(tmp_path, run_tool):
    search = write_search(tmp_path / "a b", lines=3)
    training = write_training(tmp_path / "a_b")
    dump(training / "p.pkl", clips())
    out = tmp_path / "new/report.html"
    status, shown, _ = run_tool("report", search, training, "--out", out)
    assert status == 0 and "report.html: " in shown
    assert out.read_text().lstrip().startswith("<!DOCTYPE html>")
    assert "run-2-confusion" in keys_of(out.read_text())


def test_the_network_of_a_training_counts_the_classes_of_its_config(tmp_path):
    blocks = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "skip"]
    model = dict(
        backbone=dict(genotype=genotype(blocks)), cls_head=dict(num_classes=1000)
    )
    row = dict(loss=1, epoch=1, iter=1, step=1)
    write_launch(tmp_path / "t", scalars=[row], config=f"model = {model!r}\n")
    page = render(tmp_path / "t")
    skeleton = parse_genotype(genotype(blocks)).skeleton
    cost = network_cost(skeleton, blocks, (3, 8, 32, 32), 1000)
    assert keys_of(page) == {"run-1-network-1", "run-1-loss"}
    assert f"parameters {format_count(cost.params)}" in text_of(page)
