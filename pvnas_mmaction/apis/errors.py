"""How a tool ends: which errors are the user's, and what is said and written then."""

import errno
import logging
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from mmengine.logging import MMLogger

from ..engine.search_files import is_interrupt
from ..space.checks import wrong
from .config_fault import config_fault
from .launchers import end_distributed
from .termination import EXIT_TERMINATED, asked_to_end, on_sigterm

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def user_line(error: BaseException) -> str | None:
    """One line for the user of a tool, about what the checks of this project and of
    mmengine raise, a full disk, and what comes from a setting of a config; None where
    an exception points to a fault of the program."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        file = error.filename or "what is written"
        return f"disk: expected space for {file}, got none; free some"
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Original Traceback" in text:  # of a data loader's worker
        lines = [re.sub(r"^[\w.]+: ", "", lines[-1])]
    line = " ".join(lines)
    if line.startswith("DataLoader timed out"):
        hint = "take PVNASVideoDataset, which does not hang on a file"
        return str(wrong("dataset", "clips", f"none ({line})", hint))
    users = ValueError, OSError, ImportError, pickle.UnpicklingError
    known = isinstance(error, users) or "PytorchStream" in text  # the disk is full
    own = (line or type(error).__name__) if known else None
    return config_fault(error, line) or own


def _log_traceback() -> None:
    """Write the current exception to the log file of the run that was started."""
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            with suppress(OSError):  # a full disk
                handler.stream.write(traceback.format_exc())
                handler.flush()


def run(main: Callable[[], None], interrupted: str = "") -> None:
    """Run a tool. A user's mistake becomes one line on stderr and exit status 2, Ctrl-C
    one line, with what ``interrupted`` says, and 130, SIGTERM likewise and 143. The
    traceback goes to the log file of a run that was started."""
    try:
        with on_sigterm():
            main()
    except (Exception, KeyboardInterrupt) as error:
        ended = asked_to_end()
        if not (interrupt := is_interrupt(error)):
            _log_traceback()
        if interrupt or ended:
            text = "terminated" if ended else "interrupted"
            print(f"\n{text}" + (interrupted and f": {interrupted}"), file=sys.stderr)
            sys.exit(EXIT_TERMINATED if ended else EXIT_INTERRUPTED)
        line = user_line(error)
        if os.environ.get("PVNAS_DEBUG", "0") != "0" or line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        print("(PVNAS_DEBUG=1 shows where it was raised)", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    finally:
        end_distributed()
