"""One thread per test process, and the video files that several tests read."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before torch and numpy load, and for the processes that tests start.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def pytest_configure(config: pytest.Config) -> None:
    import torch

    import pvnas_mmaction  # noqa: F401  before any mmaction.models

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds tools/ and configs/."""
    return ROOT


@pytest.fixture(scope="session")
def motion_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small motion clips: 32 to train, 16 to validate, 8 classes.

    8 frames of 32x32 pixels each. Rendered once per test session: the first worker
    of pytest-xdist that asks renders, the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # shared by the workers
    out = base / "motion_clips"
    with (base / "motion_clips.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "val.txt").is_file():
            command = [sys.executable, str(ROOT / "tools" / "make_motion_clips.py")]
            command += ["--out", str(out), "--num-train", "32", "--num-val", "16"]
            command += ["--frames", "8"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run_tool(capsys):
    """Run a tool in this process; gives exit status, output and errors."""
    from tool_processes import run_main

    def run(tool: str, *argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run_main(tool, *argv), *capsys.readouterr()

    return run


@pytest.fixture
def call_tool(run_tool):
    """Run a tool; the line of its error, empty where it ended well."""

    def call(tool: str, *argv: object) -> str:
        status, _, errors = run_tool(tool, *argv)
        if not status:
            return ""
        *_, line, hint = errors.splitlines()
        assert status == 2 and line.startswith("error: ")
        assert hint == "(PVNAS_DEBUG=1 shows where it was raised)"
        return line.removeprefix("error: ")

    return call
