"""What a step of a search saves for its backward pass, reads and costs the host."""

import pytest
import torch

from benchmarks import step_overhead, supernet_step
from benchmarks.step_overhead import HostReads


@pytest.fixture(scope="module")
def bench():
    return supernet_step.Bench("compact", (4, 32, 32))


@pytest.mark.parametrize(
    ("kind", "relaxation", "least", "most"),
    [
        ("weights", "uniform", 0.5, 1.15),
        ("weights", "gumbel_st", 0.5, 1.15),
        ("alpha", "two_path", 1, 2.2),
        ("weights", "softmax", 4, 20),
    ],
)
def test_step_saves_as_much_as_what_it_runs(bench, kind, relaxation, least, most):
    row = supernet_step.compare(bench, kind, relaxation, range(2), timed=False)
    assert least < row["saved_ratio"] <= row["saved_ratio_max"] <= most


@pytest.mark.parametrize(
    ("count", "read"),
    [
        (1, lambda x: x.softmax(0).cpu().tolist()),
        (2, lambda x: [x.max().item(), x.detach().numpy()]),
        (1, lambda x: torch.zeros(3).copy_(x)),
        (0, lambda x: x.mul(2).to(x.device)),
        # What the host made is its own.
        (0, lambda x: torch.randn(3).tolist()),
    ],
)
def test_reads_of_the_device_are_counted(count, read):
    x = torch.ones(3)
    with HostReads([x]) as reads:
        read(x)
    assert reads.count == count
    assert reads.others == 0
    with HostReads([x], counts=lambda: False) as reads:
        read(x)
    assert (reads.count, reads.others) == (0, count)


@pytest.mark.slow
def test_step_reads_the_device_seldom():
    """A search of a shipped config, its hooks among them."""
    name = "pvnas-tiny_search_1xb16-u8-30e_custom-rgb.py"
    row = step_overhead.measure(name, 24, (4, 16, 16))
    assert row["host_reads_of_any_training"] > 0
    assert row["iterations"] > 5
    assert 0 < row["overhead_ms"] < row["step_ms"]
