# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The archive: distances, summary, its JSON, and a write that fails midway."""

from __future__ import annotations

import json
import stat

import pytest

from pvnas_mmaction.search.archive import Archive, ArchiveEntry

A = ("mb_t1_k3_e2", "mb_t3_k3_e2", "skip", "ts_t3_k3_e4")
B = ("mb_t1_k3_e2", "mb_t3_k5_e2", "skip", "ts_t3_k5_e4")
C = ("mb_t3_k3_e2", "mb_t3_k5_e2", "skip", "ts_t3_k3_e4")


def entry(blocks=A, cycle=0, accuracy=0.5, distance=None, **changes) -> ArchiveEntry:
    values = dict(
        cycle=cycle,
        step=100 * (cycle + 1),
        blocks=blocks,
        costs=dict(flops=1_234_567, params=89_012),
        accuracy=accuracy,
        distance=distance,
        diversity=0.1 + 0.2,
        planned_diversity=0.25,
        file=f"genotypes/cycle_{cycle + 1:02d}.json",
    )
    return ArchiveEntry(**{**values, **changes})


def full_archive() -> Archive:
    archive = Archive()
    for cycle, (blocks, accuracy) in enumerate(
        [(A, 0.5), (B, 0.75), (A, None), (C, 0.75)]
    ):
        archive.add(entry(blocks, cycle, accuracy, archive.distance(blocks)))
    return archive


def test_distance_is_to_the_nearest_entry():
    archive = full_archive()
    assert [e.distance for e in archive.entries] == [None, 0.5, 0.0, 0.5]
    assert archive.distance(A) == 0
    assert archive.distance(("x", *A[1:])) == 0.25
    assert Archive().distance(A) is None


def test_final_network_is_the_best_whatever_its_accuracy():
    archive = full_archive()
    for final in (entry(C[::-1], 3, 0.8, 0.25), entry(C[::-1], 3, 0.25, 0.25)):
        archive.final = final
        assert archive.best() is final
        read = Archive.from_dict(json.loads(json.dumps(archive.to_dict())))
        assert (read.final, read.entries) == (final, archive.entries)
        # The archive is what it was; the best accuracy may be the final one's.
        best = max(final.accuracy, 0.75)
        assert archive.summary() == full_archive().summary() | {"best_accuracy": best}
        assert archive.distance(C[::-1]) == full_archive().distance(C[::-1]) > 0


def test_summary_by_hand():
    # Pairs: AB 2, AA 0, AC 2, BA 2, BC 2, AC 2, of 4 layers each.
    assert full_archive().summary() == {
        "mean_pairwise_hamming": pytest.approx(10 / 4 / 6),
        "distinct": 3,
        "best_accuracy": 0.75,
    }
    assert len(full_archive()) == 4


def test_best_is_the_most_accurate_then_the_cheapest_then_the_earliest():
    assert full_archive().best().blocks == B
    cheap = entry(C, 2, 0.5, costs=dict(flops=7))
    ties = [entry(A, 0, 0.5), cheap, entry(B, 3, 0.5, costs=dict(flops=7))]
    assert Archive(ties).best() == cheap
    assert Archive([*ties, entry(B, 4, 0.75)]).best().cycle == 4
    assert Archive([entry(A, 0, None), entry(B, 1, 0.0)]).best().blocks == B
    assert Archive([entry(A, 0, None), entry(B, 1, None)]).best().blocks == B
    assert Archive().best() is None


def test_file_gives_the_archive_back(tmp_path):
    archive = full_archive()
    path = tmp_path / "search" / "archive.json"
    archive.save(path)
    assert Archive.load(path).entries == archive.entries
    data = json.loads(path.read_text())
    assert data["summary"]["distinct"] == 3
    assert data["entries"][1]["blocks"] == list(B)
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format_version=1), "format_version: expected 2, got"),
        (lambda data: data.clear(), "here, format_version: expected 2, got None; use"),
        (lambda data: data["entries"][1].pop("step"), "here: .*'step'"),
        (lambda data: data["entries"][1].update(color=3), "here: .*'color'"),
        (lambda data: data.pop("final"), "here: expected the keys of .*'final'"),
    ],
)
def test_what_is_no_archive_is_named(change, message):
    data = full_archive().to_dict()
    change(data)
    with pytest.raises(ValueError, match=message):
        Archive.from_dict(data, where="here")
