#!/usr/bin/env python
"""torchrun, for dist_train.sh and dist_test.sh. After SIGTERM it waits for the
checkpoint of a search, and ends with exit status 143."""

import os
import signal
import sys

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.run import main

handle = api._terminate_process_handler


def handle_once(number: int, frame: object) -> None:
    """Pass a signal on; a second one, as of ``timeout``, would end torchrun before its
    processes."""
    signal.signal(number, signal.SIG_IGN)
    handle(number, frame)


if __name__ == "__main__":
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    api._terminate_process_handler = handle_once
    try:
        main()
    except api.SignalException as error:
        sys.exit(128 + error.sigval)
