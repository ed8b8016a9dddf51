"""One process at a time writes to a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from ..space.checks import wrong


@contextmanager
def folder_lock(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold a lock file within this context; ValueError where another process holds it.

    The system lets go of it when the process ends, however that happens: what a killed
    process leaves behind is no lock. It names host and process of who holds it.
    """
    path = Path(path)
    with path.open("a+") as file:
        try:
            # Not flock: workers of a data loader would inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            hint = "wait until it ends, or take another work_dir"
            got = f"{what} of {file.read().strip() or 'another process'}"
            raise wrong(str(path.parent), "a folder for itself", got, hint) from None
        except OSError as error:  # a file system without locks
            print_log(f"{path}: could not be locked ({error}): do not start two runs")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
