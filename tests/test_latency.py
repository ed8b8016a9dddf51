"""Latency tables: the file, how they are measured, and the tool that does it."""

import itertools
import json
import random
import runpy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pvnas_mmaction.models.supernet import PVNASSupernet
from pvnas_mmaction.profiling import calibration, latency
from pvnas_mmaction.profiling.clock import Clock, check_device, thread_count
from pvnas_mmaction.profiling.latency import Networks
from pvnas_mmaction.profiling.onnx_parts import OnnxParts, start
from pvnas_mmaction.space.latency_table import LatencyTable, load_latency_table
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "configs" / "pvnas" / "_base_" / "spaces" / "tiny.py"
SHAPE = [3, 4, 16, 16]
STAGES = [
    dict(out_channels=8, num_layers=3,
         candidates=["mb_t1_k3_e1", "mb_t3_k3_e2", "skip"]),
    dict(out_channels=16, num_layers=1, spatial_stride=2, temporal_stride=2,
         candidates=["mb_t1_k3_e1", "rb_t3_k3_e0.5"]),
]  # fmt: skip
SPACE = SearchSpace.from_config(
    dict(name="toy", stem=dict(channels=8), head_channels=16, stages=STAGES)
)
ROWS = [[3.0, 4.0, 0.25]] * 3 + [[1.0, 2.5]]


def toy_table() -> LatencyTable:
    return LatencyTable(SPACE.to_config(), SHAPE, 0.5, ROWS, dict(device="cpu"))


# -- the file ---------------------------------------------------------------------


def test_file_reads_back_and_is_about_one_space_and_shape(tmp_path):
    path = tmp_path / "table.json"
    toy_table().save(path)
    assert load_latency_table(path, SPACE, SHAPE) == toy_table()
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]
    config = SPACE.to_config()
    config["stages"][0]["candidates"] = ["mb_t1_k3_e1", "mb_t3_k3_e3", "skip"]
    with pytest.raises(ValueError, match="space"):
        load_latency_table(path, SearchSpace.from_config(config), SHAPE)
    with pytest.raises(ValueError, match="input_shape"):
        load_latency_table(path, SPACE, [3, 8, 16, 16])


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "table.json"
    with pytest.raises(FileNotFoundError, match="No such file"):
        load_latency_table(path, SPACE, SHAPE)
    for text in ("{", "[]", json.dumps(dict(format_version=99))):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"table\.json"):
            load_latency_table(path, SPACE, SHAPE)
    for field, value in (
        ("space", []),
        ("input_shape", 3),
        ("layer_ms", 1.0),
        ("fixed_ms", -1.0),
    ):
        replace(toy_table(), **{field: value}).save(path)
        with pytest.raises(ValueError, match=rf"table\.json: {field}: "):
            load_latency_table(path, SPACE, SHAPE)


# -- measuring --------------------------------------------------------------------


def test_onnx_parts_are_the_candidates_of_a_network() -> None:
    """One behind the other they compute what PyTorch does; layers of one kind are
    exported once."""
    torch.manual_seed(0)
    supernet = PVNASSupernet(SPACE.to_config()).eval()
    for layer in supernet.layers[1:3]:
        layer.load_state_dict(supernet.layers[0].state_dict())
    head = latency.I3DHead(num_classes=3, in_channels=16).eval()
    last = torch.nn.Sequential(supernet.head, head)
    parts = OnnxParts(supernet, last, (1, *SHAPE))
    assert parts.layers[0] is parts.layers[2]
    x = torch.randn(1, *SHAPE)
    for indices in [(0, 1, 2, 1), (2, 2, 0, 0)]:
        with torch.no_grad(), supernet.use_path(supernet.path_of(indices)):
            expected = head(supernet(x)).numpy()
        whole = start(parts.network(indices), 1)(x.numpy())
        y = start(parts.stem, 1)(x.numpy())
        for row, index in zip(parts.layers, indices, strict=True):
            y = start(row[index], 1)(y)
        np.testing.assert_allclose(start(parts.head, 1)(y), expected, atol=1e-5)
        np.testing.assert_allclose(whole, expected, atol=1e-5)
    assert abs(expected).max() > 1e-3
    for graph in parts.layers[0]:  # with skip, which computes nothing
        given = torch.randn(1, 8, 4, 8, 8).numpy()
        y = start(graph, 1)(given)
        kept = y.copy()
        given += 1
        np.testing.assert_array_equal(y, kept)


def test_a_table_in_onnxruntime() -> None:
    networks = Networks(SPACE, SHAPE, 3, threads=1, rounds=2, backend="onnxruntime")
    table = latency.measure_table(networks)
    assert table.setting["backend"] == "onnxruntime"
    assert table.fixed_ms > 0 and min(map(min, table.layer_ms)) > 0
    table = calibration.calibrate_and_check(table, networks, 3)
    assert len(table.setting["check"]["networks"]) == 3
    with pytest.raises(ValueError, match="backend onnxruntime: expected device cpu"):
        Networks(SPACE, SHAPE, 3, device="cuda", backend="onnxruntime")


def test_table_of_known_times(monkeypatch):
    """Medians of readings, outliers and all, shared by layers of one kind."""
    noise = random.Random(1)
    networks = Networks(SPACE, SHAPE, 5, rounds=40, threads=1)
    places: list[int] = []
    pairs = zip(networks.layers, ROWS, strict=True)
    known = {id(op): ms for ops, row in pairs for op, ms in zip(ops, row, strict=True)}

    def time(runs, track):
        """The time of a candidate is said by its place; layers 0 to 2 are alike."""
        for stages in track(runs):
            places.append(len(stages))
            times = [2.0, *(known[id(stage)] for stage in stages[1:-1]), 1.0]
            # Later readings of a network come late now and then.
            yield [t * (1 if noise.random() < 0.75 else 7) for t in times]

    monkeypatch.setattr(networks, "time", time)
    table = latency.measure_table(networks)
    assert places == [6] * 3 * 41
    assert table.layer_ms == ROWS
    assert table.fixed_ms == 3.0
    assert table.input_shape == SHAPE
    assert table.space == SPACE.to_config()
    assert table.setting["num_classes"] == 5


def test_medians_of_a_machine_that_slows_down() -> None:
    """Each moment times some of the things only."""
    normal, times = np.random.default_rng(0).normal, dict(a=1.0, b=5.0, c=0.2, d=2.0)
    for speeds in ([1] * 8, [1, 1, 1, 1, 2, 2, 3, 3]):
        moments = [
            [(k, s * times[k] * normal(1, 0.01)) for k in "abcd" if k != "abcd"[i % 4]]
            for i, s in enumerate(speeds)
        ]
        found = latency.steady_medians(moments)
        ratios = {key: found[key] / found["a"] for key in times}
        assert ratios == pytest.approx(times, rel=0.03)


def test_whole_networks_reach_from_any_to_the_quickest() -> None:
    table = toy_table()
    drawn = calibration.draw_networks(table, 200, random.Random(0))
    times = [table.predict(indices) for indices in drawn]
    mean = table.fixed_ms + sum(sum(row) / len(row) for row in ROWS)
    assert table.predict(drawn[0]) > 0 and len({*drawn}) > 20
    assert sum(times[:20]) / 20 == pytest.approx(mean, rel=0.25)
    assert sum(times[-20:]) / 20 < 0.4 * mean


NETWORKS = list(itertools.product(range(3), range(3), range(3), range(2)))


def measured_rows(noise: float) -> list[dict]:
    """Networks of the toy take twice what exceeds 0.25 ms in each layer, in sum."""
    normal = np.random.default_rng(0).normal
    times = [
        2 * sum(row[i] - 0.25 for row, i in zip(ROWS, indices, strict=True))
        for indices in NETWORKS
    ]
    measured = [ms * normal(1, noise) for ms in times]
    return calibration.compare(toy_table(), NETWORKS, measured)


def test_calibration_recovers_overhead_and_scale_and_covers_errors():
    """Without an error there is no margin."""
    calibrated = calibration.calibrate(toy_table(), measured_rows(0))
    for row in measured_rows(0):
        predicted = calibrated.predict(row["indices"])
        assert predicted == pytest.approx(row["measured_ms"], rel=0.01)
    facts = calibrated.setting["calibration"]
    assert facts["overhead_ms"] == pytest.approx(0.25, abs=0.01)
    assert facts["scale"] == pytest.approx(2, rel=0.01)
    assert facts["margin"] < 0.01
    assert calibrated.setting["device"] == "cpu"
    # With one the margin covers most networks.
    rows = measured_rows(0.04)
    calibrated = calibration.calibrate(toy_table(), rows)
    margin = calibrated.setting["calibration"]["margin"]
    assert margin == pytest.approx(2 * 0.04, rel=0.25)
    within = [calibrated.predict(r["indices"]) >= r["measured_ms"] for r in rows]
    assert 0.94 <= sum(within) / len(rows) < 1


# -- the tool ---------------------------------------------------------------------


def quick(out: Path, *more) -> list:
    options = ["--threads", 1, "--rounds", 2, "--check-networks", 3]
    return [TINY, *options, "--input-shape", *SHAPE, "--out", out, *more]


def test_tool(run_tool, tmp_path):
    out = tmp_path / "new" / "table.json"
    assert run_tool("build_latency_table", *quick(out))[0] == 0
    space = SearchSpace.from_config(runpy.run_path(str(TINY))["space"])
    table = load_latency_table(out, space, SHAPE)

    setting = table.setting
    assert (setting["device"], setting["threads"], setting["rounds"]) == ("cpu", 1, 2)
    assert setting["num_classes"] == 400
    fitted, other = setting["calibration"]["networks"], setting["check"]["networks"]
    assert len(fitted) == len(other) == 3
    for row in other:
        assert row["predicted_ms"] == pytest.approx(table.predict(row["indices"]))
        assert row["measured_ms"] > 0
    errors = [abs(row["predicted_ms"] / row["measured_ms"] - 1) for row in other]
    assert setting["check"]["median_error"] == pytest.approx(sorted(errors)[1])
    # The identity costs next to nothing.
    for row, candidates in zip(table.layer_ms, space.candidates, strict=True):
        if "skip" in candidates:
            assert row[candidates.index("skip")] == min(row)


def test_wrong_options(run_tool, tmp_path):
    out = tmp_path / "table.json"
    for options, message in (
        (["--check-networks", 2], "--check-networks: expected a whole number from 3"),
        (["--out", "."], "--out"),
    ):
        status, _, stderr = run_tool("build_latency_table", *quick(out, *options))
        assert status == 2
        assert message in stderr.splitlines()[0]
        assert not out.exists()


def test_devices_and_clocks(monkeypatch):
    with pytest.raises(ValueError, match="device: expected"):
        Networks(SPACE, SHAPE, 5, device="meta")
    clock = Clock("cpu")
    with thread_count(1):
        assert clock.kind == "thread time"
        clock.mark()
        time.sleep(0.05)
        clock.mark()
        assert clock.intervals()[0] < 10
    with thread_count(2):
        assert clock.kind == "wall time"
        clock.mark()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="cuda, cuda:0, cuda:1, got 'cuda:2'"):
        check_device("cuda:2")
