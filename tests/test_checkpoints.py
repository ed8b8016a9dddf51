"""Which checkpoint a run goes on from after a kill at the worst moment."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from pvnas_mmaction.engine.checkpoints import latest_checkpoint


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Three checkpoints, saved one after the other, and another file."""
    for number in (9, 10, 11):
        torch.save(dict(number=number), tmp_path / f"epoch_{number}.pth")
        os.utime(tmp_path / f"epoch_{number}.pth", (number, number))
    torch.save({}, tmp_path / "best_acc_epoch_9.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_11.pth"))
    return tmp_path


def cut(path: Path) -> None:
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(data[: len(data) // 2])
    os.utime(path, (times.st_atime, times.st_mtime))


def found(work_dir: Path) -> str:
    path = latest_checkpoint(work_dir)
    assert path is not None
    return Path(path).name


def test_killed_while_the_name_or_a_checkpoint_was_written(work_dir):
    """Or a name that was lost."""
    (work_dir / "last_checkpoint").write_text("")
    assert found(work_dir) == "epoch_11.pth"
    (work_dir / "last_checkpoint").unlink()
    assert found(work_dir) == "epoch_11.pth"
    (work_dir / "last_checkpoint").write_text(str(work_dir / "epoch_11.pth"))
    cut(work_dir / "epoch_11.pth")
    assert found(work_dir) == "epoch_10.pth"
    damaged = bytearray((work_dir / "epoch_10.pth").read_bytes())
    middle = slice(len(damaged) // 3, 2 * len(damaged) // 3)  # not in padding alone
    damaged[middle] = bytes(255 ^ byte for byte in damaged[middle])
    (work_dir / "epoch_10.pth").write_bytes(damaged)
    assert found(work_dir) == "epoch_9.pth"
    for number in (9, 10):
        cut(work_dir / f"epoch_{number}.pth")
    with pytest.raises(ValueError, match=r"--resume: expected a whole .*epoch_11"):
        latest_checkpoint(work_dir)


def test_a_folder_that_was_copied(work_dir):
    copied = work_dir / "copied"
    copied.mkdir()
    for number in (10, 11):
        torch.save({}, copied / f"epoch_{number}.pth")
    shutil.copy(work_dir / "last_checkpoint", copied)
    assert latest_checkpoint(copied) == str(copied / "epoch_11.pth")
    for number, expected in (
        (11, copied / "epoch_10.pth"),
        (10, work_dir / "epoch_11.pth"),
    ):
        (copied / f"epoch_{number}.pth").unlink()  # all may be kept elsewhere
        assert latest_checkpoint(copied) == str(expected)
