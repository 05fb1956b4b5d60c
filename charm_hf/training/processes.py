"""One run, one folder: what keeps two processes from writing the same checkpoints."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from charm_hf.files import Lock


LOCK_NAME = ".lock"
_LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
_held: dict[Path, Lock] = {}


def exit_with_launcher(poll_seconds: float = 0.5) -> None:
    """End this process soon after `accelerate launch` or `torchrun`, which started it, is gone.

    A launcher that is killed leaves its processes behind. They would go on writing into a folder that the next run
    resumes from.
    """
    if not any(name in os.environ for name in _LAUNCHER_VARIABLES):
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(poll_seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-launcher").start()


def lock_folder(folder: Path, patience_seconds: float = 6.0) -> None:
    """Keep a folder for this process as long as it lives.

    Args:
        folder: exists.
        patience_seconds: how long to wait for another process to end, such as one whose launcher was killed just now,
            or the data workers that it leaves for some seconds.

    Raises:
        RuntimeError: if another process has the folder.
    """
    path = folder.resolve() / LOCK_NAME
    if path not in _held:
        try:
            _held[path] = Lock(path).acquire(patience_seconds)
        except BlockingIOError as error:
            raise RuntimeError(f"Another process is training into {folder}: wait for it, or end it first.") from error
