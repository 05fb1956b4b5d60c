"""One process, or several that `accelerate launch` started on one machine or more."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any


# A process that finishes early waits for the slowest. If one dies, its launcher or its lost connection ends the wait.
_PATIENCE = timedelta(weeks=4)


class Ranks:
    """The processes that share a run.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: where this process computes if nothing else is asked for; `None` to choose freely.
    """

    def __init__(self) -> None:
        self.rank, self.count, self.device = 0, 1, None
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            self._state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_PATIENCE)
            self.rank, self.count = self._state.process_index, self._state.num_processes
            if self.count != int(os.environ["WORLD_SIZE"]):
                raise ValueError(
                    f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but this process found {self.count}: on a machine "
                    "without GPUs set ACCELERATE_USE_CPU=true."
                )
            self.device = self._state.device

    @property
    def is_main(self) -> bool:
        """Whether this process lists the images and writes the table."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def close(self) -> None:
        """Leave the group."""
        if self._state is not None:
            self._state.destroy_process_group()
