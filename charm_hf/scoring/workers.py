"""Worker processes that tokenize batches ahead, and what happens when one dies."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader

from .tokenizing import BatchTokenizer, Placed, TokenBatch


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


def _tokenize_guarded(tokenizer: BatchTokenizer, batches: Iterable[list[Placed]]) -> Iterator[TokenBatch]:
    """Tokenize images one by one in a process that may die; one that kills it gets an error."""
    pool = None
    try:
        for batch in batches:
            results = []
            for image in batch:
                pool = pool or ProcessPoolExecutor(1, get_context("spawn"), initializer=begin_work)
                try:
                    results += pool.submit(tokenizer.tokenize, [image]).result()
                except BrokenProcessPool:
                    results.append((image[0], None, _DIED))
                    pool.shutdown()
                    pool = None
            yield tokenizer.collate(results)
    finally:
        if pool is not None:
            pool.shutdown()


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
        yield from _tokenize_guarded(tokenizer, lost)
