# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which exceptions are about what a user gave, and what to say of them."""

from __future__ import annotations

import pickle
import re

_WRONG_SETTING = re.compile(
    r"\w+\.__init__\(\) (got an unexpected keyword argument|missing \d+ required)"
)


def is_user_error(error: BaseException) -> bool:
    """Whether an exception's message is meant for the user of a tool.

    These are what the checks of this project and of mmengine raise on bad settings
    and files: not assertions, nor what points to a fault of the program.
    """
    if isinstance(error, (ValueError, OSError, ImportError, pickle.UnpicklingError)):
        return True
    if isinstance(error, KeyError):  # "X is not in the mmaction::model registry"
        return "registry" in str(error)
    if isinstance(error, TypeError):  # a setting that the class built does not take
        return _WRONG_SETTING.match(str(error)) is not None
    # torch on a truncated checkpoint
    return isinstance(error, RuntimeError) and "PytorchStreamReader" in str(error)


def error_line(error: BaseException) -> str:
    """The message of an exception in one line.

    A data loader's worker sends its whole traceback as the message: its last line is
    the one that counts. mmengine names the class that raised before the message.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Original Traceback" in text:
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return " ".join(lines)
