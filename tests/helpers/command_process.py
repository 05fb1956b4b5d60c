"""`charm-hf` in another process, slowed down so that a test can interrupt it."""

from __future__ import annotations

import os
import time
from multiprocessing import get_context

import torch


def _run_command(arguments, log, chunk_images, slowness, offline):
    """Run `charm-hf` in a fresh process, with small chunks and no hurry, so that there is time to interrupt it."""
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import huggingface_hub.constants

    import charm_hf_cli
    from charm_hf.scoring import batching, engine

    huggingface_hub.constants.HF_HUB_OFFLINE = offline  # the server's variables may be those of another test
    batching.CHUNK_IMAGES = chunk_images
    torch.set_num_threads(1)
    forward = engine.Scorer.answer

    def slow_forward(self, inputs):
        time.sleep(slowness)
        return forward(self, inputs)

    engine.Scorer.answer = slow_forward
    charm_hf_cli.main(arguments)


class CommandProcess:
    """A running `charm-hf`; cheap to start, because it is forked from a server that has imported the package."""

    def __init__(self, arguments, log, chunk_images=16, slowness=0.0):
        context = get_context("forkserver")
        context.set_forkserver_preload(["charm_hf_cli", "charm_hf.scoring", "charm_hf.hub"])
        self.log = log
        arguments = [str(argument) for argument in arguments]
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        self.process = context.Process(target=_run_command, args=(arguments, log, chunk_images, slowness, offline))
        self.process.start()

    def wait(self, seconds=60):
        """Exit code, or `None` if it still runs."""
        self.process.join(seconds)
        return self.process.exitcode

    def send(self, number):
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def wait_for(self, condition, seconds=60):
        """Wait until something has happened on disk."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.messages
            assert time.monotonic() < end, self.messages
            time.sleep(0.005)

    @property
    def messages(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""
