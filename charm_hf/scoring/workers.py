"""Worker processes that tokenize batches ahead, and what happens when one dies."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader

from .tokenizing import BatchTokenizer, Placed, TokenBatch, Tokenized


logger = logging.getLogger(__name__)

_FEW_IMAGES = 128
_DIED = "The process that decoded it died: out of memory, or a broken decoder."


def default_workers(count: int | None) -> int:
    """Worker processes for so many images: one a core that this process may use, but at most eight.

    Starting them costs seconds, which few images do not repay.
    """
    if count is not None and count < _FEW_IMAGES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def end_with_parent() -> None:
    """End this worker process when the one that started it has ended, in whatever way.

    PyTorch's own watch does not end a worker whose last batch nobody reads, nor concurrent.futures' one that waits.
    """
    parent = parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        Thread(target=watch, daemon=True, name="end-with-parent").start()


def begin_work(worker_id: int = 0) -> None:
    """What a worker process does first."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    end_with_parent()


def _identity(batch: Any) -> Any:
    return batch


def _loader(
    tokenizer: BatchTokenizer, batches: Iterable[list[Placed]], num_workers: int, pin_memory: bool
) -> DataLoader:
    return DataLoader(
        tokenizer,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_identity,
        prefetch_factor=2 if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=begin_work,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # a loader draws a seed, and must not draw it from the global generator
    )


def _tokenize_for(parent: Connection, tokenizer: BatchTokenizer) -> None:
    begin_work()
    with suppress(EOFError, OSError):  # it wants nothing more
        while True:
            parent.send(tokenizer.tokenize(parent.recv()))


class TokenizingProcess:
    """A process that tokenizes one image after the other; an image that kills it gets an error.

    It has a pipe of its own: in a queue that several processes write to, half an answer of a dead one blocks all.
    """

    def __init__(self, tokenizer: BatchTokenizer) -> None:
        self.tokenizer = tokenizer
        self.start()

    def start(self) -> None:
        """Start it, or another in its place."""
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_tokenize_for, args=(theirs, self.tokenizer), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def tokenize(self, image: Placed, attempts: int = 2) -> Tokenized:
        """As [`BatchTokenizer.tokenize`]; what ends the first attempt may have come from elsewhere."""
        for _ in range(attempts):
            try:
                self._pipe.send(image)
                return self._pipe.recv()
            except (EOFError, OSError):
                self.close()
                self.start()
        return image[0], None, _DIED

    def close(self) -> None:
        """End the process after its image."""
        self._pipe.close()
        self._process.join()


class TokenizingProcesses:
    """Processes that tokenize for many threads; if there are none, the threads do, and end with a decoder's crash."""

    def __init__(self, tokenizer: BatchTokenizer, count: int) -> None:
        self.tokenizer, self.count = tokenizer, count
        self._idle: SimpleQueue[TokenizingProcess] = SimpleQueue()

    def start(self) -> None:
        """Start them, which takes seconds, before the first image comes."""
        for _ in range(self.count):
            self._idle.put(TokenizingProcess(self.tokenizer))

    def tokenize(self, image: Placed) -> Tokenized:
        """As [`BatchTokenizer.tokenize`]."""
        if not self.count:
            return self.tokenizer.tokenize(image)
        process = self._idle.get()
        try:
            return process.tokenize(image)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End them after their images."""
        for _ in range(self.count):
            self._idle.get().close()


def tokenize_batches(
    tokenizer: BatchTokenizer,
    batches: Iterator[list[Placed]],
    num_workers: int,
    *,
    pin_memory: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[TokenBatch]:
    """Tokenize batches in order; when a worker process dies, only the image that killed it is lost.

    Args:
        tokenizer: what each process gets a copy of.
        batches: two for each process are taken ahead.
        num_workers: processes; 0 tokenizes in this one.
        pin_memory: put the tokens where a GPU copies them from fast.
        stopping: whether the run is to end.
    """
    underway: deque[list[Placed]] = deque()
    source_failed = False

    def handed_out() -> Iterator[list[Placed]]:
        nonlocal source_failed
        try:
            for batch in batches:
                underway.append(batch)
                yield batch
        except BaseException:
            source_failed = True
            raise

    while (first := next(batches, None)) is not None:  # else there is nothing to start worker processes for
        batches = chain([first], batches)
        try:
            for tokenized in _loader(tokenizer, handed_out(), num_workers, pin_memory):
                underway.popleft()
                yield tokenized
            return
        except RuntimeError as error:
            if source_failed or not num_workers:
                raise
            time.sleep(0.5)  # a signal that ended the worker may be on its way to this process too
            if stopping():
                return
            logger.warning("A worker process died; going on image by image where it stopped (%s).", error)
        lost = list(underway)
        underway.clear()
        with closing(TokenizingProcess(tokenizer)) as process:
            for batch in lost:
                yield tokenizer.collate([process.tokenize(image, attempts=1) for image in batch])
