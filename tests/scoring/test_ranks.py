import os
import signal
import subprocess
import sys
import time

import psutil
import pytest


def launch(arguments, log, **environment):
    """Start `charm-hf score` in two processes, as on a machine with two GPUs but on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "charm_hf_cli", "score", *map(str, arguments), "--num-workers", "0"]
    with open(log, "w") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )


@pytest.fixture
def thousand_photos(tmp_path, write_photo):
    """1,300 images: three chunks."""
    first = [write_photo(tmp_path / "photos" / f"{seed}.png", 40 + seed, 60, seed) for seed in range(13)]
    for index in range(1300 - 13):
        os.link(first[index % 13], tmp_path / "photos" / f"copy-{index:04d}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_two_processes_share_the_source_and_a_dead_ones_share_is_picked_up(
    checkpoint, thousand_photos, command, tmp_path
):
    arguments = ["score", thousand_photos, "--model", checkpoint, "--device", "cpu"]
    alone = command(*arguments, "--output", tmp_path / "alone.csv", chunk_images=512)
    assert alone.wait(120) == 0, alone.messages
    expected = (tmp_path / "alone.csv").read_bytes()

    output = tmp_path / "scores.csv"
    parts = tmp_path / "scores.csv.progress" / "parts"
    running = launch([thousand_photos, "--model", checkpoint, "--output", output], tmp_path / "first.txt")
    end = time.monotonic() + 240
    while not list(parts.glob("[0-9]*-*.jsonl")):
        assert running.poll() is None and time.monotonic() < end, (tmp_path / "first.txt").read_text()  # noqa: PT018
        time.sleep(0.01)
    scoring = [child for child in psutil.Process(running.pid).children() if "charm_hf_cli" in child.cmdline()]
    # Two that took themselves for the only one would not get the lock of the output both.
    assert [child.environ()["RANK"] for child in sorted(scoring, key=lambda child: child.pid)] == ["0", "1"]
    os.killpg(running.pid, signal.SIGKILL)  # launcher and both processes, as in a power cut
    running.wait()
    assert not output.exists()

    again = launch([thousand_photos, "--model", checkpoint, "--output", output], tmp_path / "second.txt")
    assert again.wait(240) == 0, (tmp_path / "second.txt").read_text()
    assert output.read_bytes() == expected
    assert not parts.exists()
