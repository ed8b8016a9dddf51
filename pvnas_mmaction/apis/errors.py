# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
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
from .launchers import end_distributed
from .termination import EXIT_TERMINATED, asked_to_end, on_sigterm

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def is_user_error(error: BaseException) -> bool:
    """Whether an exception's message is meant for the user of a tool: what the checks
    of this project and of mmengine raise, not assertions, nor what points to a fault of
    the program."""
    if isinstance(error, (ValueError, OSError, ImportError, pickle.UnpicklingError)):
        return True
    if isinstance(error, KeyError):  # "X is not in the mmaction::model registry"
        return "registry" in str(error)
    if isinstance(error, TypeError):  # a setting that the class does not take
        return _class_being_built(error) is not None
    # torch on a truncated checkpoint, and on a full disk
    return isinstance(error, RuntimeError) and "PytorchStream" in str(error)


def _class_being_built(error: BaseException) -> str | None:
    """Name of the class that MMEngine was building from a config, if it was."""
    name = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "build_from_cfg" and "obj_cls" in frame.f_locals:
            name = getattr(frame.f_locals["obj_cls"], "__name__", None)
    return name


def error_line(error: BaseException) -> str:
    """The message of an exception in one line.

    A data loader's worker sends its whole traceback as the message: its last line is
    the one that counts. mmengine names the class that raised before the message.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        file = error.filename or "what is written"
        return f"disk: expected space for {file}, got none; free some"
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Original Traceback" in text:
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    built = _class_being_built(error)
    if isinstance(error, TypeError) and built and "__init__()" not in text:
        lines.insert(0, f"{built}:")
    return " ".join(lines)


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
        if not (interrupt := is_interrupt(error)):
            _log_traceback()
        if interrupt or asked_to_end():
            ended = asked_to_end()
            text = "terminated" if ended else "interrupted"
            print(f"\n{text}" + (interrupted and f": {interrupted}"), file=sys.stderr)
            sys.exit(EXIT_TERMINATED if ended else EXIT_INTERRUPTED)
        if os.environ.get("PVNAS_DEBUG", "0") != "0" or not is_user_error(error):
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        print("(PVNAS_DEBUG=1 shows where it was raised)", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    finally:
        end_distributed()
