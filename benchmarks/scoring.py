"""What the scoring engine costs beside a bare loop over the model, as ratios measured in one run.

    python -m benchmarks.scoring overhead      engine and bare loop, without and with worker processes
    python -m benchmarks.scoring memory        peak memory and time of 2,000 and of 20,000 images
    python -m benchmarks.scoring padding       share of padding tokens among mixed sizes
    python -m benchmarks.scoring decoding      reduced decoding of large JPEG files: time, memory, change of the score
    python -m benchmarks.scoring rates         processor time and bytes an image, for docs/scaling.md
    python -m benchmarks.scoring kills         20 kills at random moments, tables compared

Everything is made on the spot (images, a random model), so that it runs anywhere offline.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config, ViTConfig

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.scoring import (
    Item,
    PathSource,
    Scorer,
    ScoreRow,
    ScoringOptions,
    load_for_scoring,
    open_table,
    score_to_table,
    tokenizing,
)
from charm_hf.scoring.batching import CHUNK_IMAGES, chunk_items, plan_batches


def make_photo(path: Path, width: int, height: int, seed: int, quality: int = 92) -> None:
    """A photo-like JPEG: smooth shapes, edges and grain."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-12, 13, (height, width, 1), dtype=np.int16)
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=quality)


def add_grain(picture: Image.Image) -> Image.Image:
    """The noise of a sensor, pixel by pixel, which is what resampling filters treat unlike each other."""
    grain = np.random.default_rng(0).integers(-16, 17, (picture.height, picture.width, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(picture, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8))


def make_checkpoint(folder: Path, size: str) -> Path:
    """A random model: `tiny`, or `small`, of the shape of DINOv2-small."""
    torch.manual_seed(0)
    if size == "small":
        backbone = Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518)
        processor = CharmImageProcessor.for_dataset("ava")
    else:
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        backbone = ViTConfig(hidden_size=32, image_size=64, patch_size=16, **layers)
        processor = CharmImageProcessor(patch_size=16, max_num_patches=64)
    CharmForAestheticScoring.from_backbone(backbone, dataset="ava").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def bare_loop(model: torch.nn.Module, processor: CharmImageProcessor, paths: list[Path]) -> list[float]:
    """What one writes by hand: one image after the other."""
    return [model(**processor(path)).scores.item() for path in paths]


def overhead(args: argparse.Namespace, folder: Path) -> None:
    """Time of the engine over the time of the bare loop; rounds of all three in turn, and their median."""
    model, processor = load_for_scoring(str(make_checkpoint(folder / "model", "small")), device="cpu")
    for index in range(args.images):
        make_photo(folder / f"{index:03d}.jpg", 640, 480, index)
    paths = sorted(folder.glob("*.jpg"))
    bare_loop(model, processor, paths[:4])
    wall: dict[int, list[float]] = {0: [], args.workers: []}
    processor_time: list[float] = []
    for _ in range(args.rounds):
        begin, begin_here = time.perf_counter(), time.process_time()
        bare_loop(model, processor, paths)
        bare, bare_here = (time.perf_counter() - begin) / len(paths), (time.process_time() - begin_here) / len(paths)
        for workers, values in wall.items():
            # Small batches: what the workers have ready when the clock starts must not count for much.
            options = ScoringOptions(num_workers=workers, batch_size=4)
            seconds, seconds_here = engine_seconds(Scorer(model, processor, options), paths)
            values.append(seconds / bare)
            if workers == 0:
                processor_time.append(seconds_here / bare_here)
    for workers, values in wall.items():
        print(f"{workers} workers: {np.median(values):.3f} of the bare loop's time (rounds: {np.round(values, 3)})")
    rounds = np.round(processor_time, 3)
    print(f"0 workers: {np.median(rounds):.3f} of its processor time, which other programs do not disturb ({rounds})")


def engine_seconds(scorer: Scorer, paths: list[Path]) -> tuple[float, float]:
    """Wall-clock and processor seconds an image, after the first batch if there are more: until then workers start."""
    begin, begin_here, before = time.perf_counter(), time.process_time(), 0
    for chunk in scorer.run(chunk_items(map(Item.from_file, paths))):
        assert not any(row.error for row in chunk.rows)
        if not before and len(chunk.finished) < len(paths):
            begin, begin_here, before = time.perf_counter(), time.process_time(), len(chunk.finished)
    scored = len(paths) - before
    return (time.perf_counter() - begin) / scored, (time.process_time() - begin_here) / scored


def memory(args: argparse.Namespace, folder: Path) -> None:
    """Peak memory and processor time of a run over few and over many images, each in a process of its own."""
    checkpoint = make_checkpoint(folder / "model", "tiny")
    for index in range(50):
        make_photo(folder / "originals" / f"{index}.jpg", 60 + 3 * index, 200 - 2 * index, index)
    measured = {}
    for count in (args.images, 10 * args.images):
        photos = folder / f"photos-{count}"
        photos.mkdir()
        for index in range(count):
            os.link(folder / "originals" / f"{index % 50}.jpg", photos / f"{index:06d}.jpg")
        command = [sys.executable, __file__, "measure-one", "--folder", str(photos), "--checkpoint", str(checkpoint)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured[count] = tuple(map(float, done.stdout.split()))
        peak, seconds = measured[count]
        print(f"{count:,} images: peak {peak:.0f} MB, {seconds / count * 1000:.2f} ms of processor time an image")
    few, many = measured.values()
    print(f"peak memory: {many[0] / few[0]:.3f}; time an image: {many[1] / few[1] / 10:.3f} (many over few)")


def measure_one(args: argparse.Namespace, folder: Path) -> None:
    """Score a folder in this process; print its peak memory in MB and the processor seconds of scoring."""
    model, processor = load_for_scoring(str(args.checkpoint), device="cpu")
    torch.set_num_threads(1)
    scorer = Scorer(model, processor)
    list(scorer.score(map(Item.from_file, sorted(args.folder.iterdir())[:100])))
    begin = time.process_time()
    score_to_table(PathSource([args.folder]), scorer, folder / "scores.csv")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time() - begin)


def padding(args: argparse.Namespace, folder: Path) -> None:
    """Share of padding among photos of mixed sizes, for batches by tokens and for batches of a fixed count."""
    processor = CharmImageProcessor.for_dataset("ava")
    sizes = random.Random(0)
    lengths = [processor.num_tokens(sizes.randint(100, 1200), sizes.randint(100, 1200)) for _ in range(args.images)]
    chunks = [lengths[start : start + CHUNK_IMAGES] for start in range(0, args.images, CHUNK_IMAGES)]
    for budget in (8192, 65536):
        padded = sum(len(b) * max(c[i] for i in b) for c in chunks for b in plan_batches(c, budget))
        print(f"budget of {budget:,} tokens: {1 - sum(lengths) / padded:.1%} padding")
    fixed = sum(len(c[i : i + 16]) * max(c[i : i + 16]) for c in chunks for i in range(0, len(c), 16))
    print(f"16 images a batch in the order of the source: {1 - sum(lengths) / fixed:.1%} padding")


def decoding(args: argparse.Namespace, folder: Path) -> None:
    """Reduced against full decoding of JPEG files of several sizes."""
    from skimage import data

    model, processor = load_for_scoring(str(args.checkpoint) if args.checkpoint else None, device="cpu")
    pictures = {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")}
    changes, seconds = [], {True: 0.0, False: 0.0}
    for name, picture in pictures.items():
        for megapixels in (6, 12, 24):
            ratio = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
            path = folder / f"{name}-{megapixels}.jpg"
            size = (int(picture.width * ratio), int(picture.height * ratio))
            add_grain(picture.resize(size, Image.Resampling.LANCZOS)).save(path, quality=92)
            scores = {}
            for reduced in (True, False):
                begin = time.perf_counter()
                inputs = processor(path, reduced_decoding=reduced)
                seconds[reduced] += time.perf_counter() - begin
                with torch.no_grad():
                    scores[reduced] = model(**inputs).normalized_scores.item()
            changes.append(abs(scores[True] - scores[False]))
    largest, average = max(changes), np.mean(changes)
    print(f"{len(changes)} files: normalized scores move by {largest:.4f} at most, {average:.4f} on average")
    print(f"preprocessing takes {seconds[True] / seconds[False]:.2f} of the time")


def rates(args: argparse.Namespace, folder: Path) -> None:
    """What one image costs: processor time of each step, and bytes on the disk."""
    model, processor = load_for_scoring(str(make_checkpoint(folder / "model", "small")), device="cpu")
    torch.set_num_threads(1)
    sizes = {"640×480": (640, 480), "12 megapixels": (4000, 3000)}
    for name, size in sizes.items():
        path = folder / f"{size[0]}.jpg"
        make_photo(path, *size, seed=0, quality=85)
        item = Item.from_file(path)
        header = processor_seconds(lambda item=item: tokenizing.measure(item, processor.plan), args.rounds * 10)
        full, reduced = (
            1000 * processor_seconds(lambda path=path, way=way: processor(path, reduced_decoding=way), args.rounds)
            for way in (False, True)
        )
        kilobytes = path.stat().st_size / 1000
        print(f"{name}, {kilobytes:.0f} kB: header {header * 1000:.2f} ms")
        print(f"decode and tokenize: {full:.1f} ms, with reduced decoding {reduced:.1f} ms")
    inputs = processor([folder / "640.jpg"] * 4)
    with torch.no_grad():
        forward = processor_seconds(lambda: model(**inputs), args.rounds) / 4
    print(f"DINOv2-small, {inputs['scale_ids'].shape[1]} tokens, float32, one core: {forward * 1000:.0f} ms")
    noise = np.random.default_rng(0).random((8192, 3)).round(6).tolist()
    rows = [make_row(f"bucket/photos/{i:09d}.jpg", noise[i]) for i in range(len(noise))]
    for ending in ("csv", "jsonl", "parquet"):
        with open_table(folder / f"rows.{ending}") as write:
            write(rows)
        print(f"{ending}: {(folder / f'rows.{ending}').stat().st_size / len(rows):.0f} bytes a row")


def make_row(path: str, scores: list[float]) -> ScoreRow:
    """The row of a photo of 12 megapixels."""
    score, normalized_score, std = scores
    return ScoreRow(path, score=score, normalized_score=normalized_score, std=std, width=4000, height=3000, tokens=512)


def processor_seconds(function: Callable[[], object], rounds: int) -> float:
    """Median processor time of a call in this process."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        seconds.append(time.process_time() - begin)
    return float(np.median(seconds))


def kills(args: argparse.Namespace, folder: Path) -> None:
    """Kill a run at random moments, start it again, and compare the table with an uninterrupted run's."""
    checkpoint = make_checkpoint(folder / "model", "tiny")
    for index in range(50):
        make_photo(folder / "originals" / f"{index}.jpg", 60 + 3 * index, 200 - 2 * index, index)
    for index in range(args.images):
        target = folder / "photos" / f"{index:06d}.jpg"
        target.parent.mkdir(exist_ok=True)
        os.link(folder / "originals" / f"{index % 50}.jpg", target)
    command = [sys.executable, "-m", "charm_hf_cli", "score", str(folder / "photos"), "--model", str(checkpoint)]
    command += ["--num-workers", "0", "--output"]
    begin = time.monotonic()
    subprocess.run([*command, str(folder / "whole.csv")], check=True, stderr=subprocess.DEVNULL)
    duration = time.monotonic() - begin
    whole, output = (folder / "whole.csv").read_bytes(), folder / "scores.csv"
    moments, killed, compared = random.Random(0), 0, 0
    while killed < args.rounds or not output.exists():
        if output.exists():
            assert output.read_bytes() == whole
            compared += 1
            output.unlink()
        process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0.3, 1) * duration if killed < args.rounds else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert output.read_bytes() == whole
    print(f"{killed} kills, {compared + 1} tables, all identical to the uninterrupted run's")


def main() -> None:
    """Run one measurement."""
    measurements = {
        "overhead": (overhead, 48),
        "memory": (memory, 2000),
        "measure-one": (measure_one, 0),
        "padding": (padding, 5120),
        "decoding": (decoding, 0),
        "rates": (rates, 0),
        "kills": (kills, 2000),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=measurements)
    parser.add_argument("--images", type=int, help="How many.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=None, help="Rounds (5), or kills (20).")
    parser.add_argument("--checkpoint", type=Path, help="For `decoding`; the embedded demonstration if not given.")
    parser.add_argument("--folder", type=Path, help="For `measure-one`.")
    args = parser.parse_args()
    measure, images = measurements[args.measurement]
    args.images = args.images or images
    args.rounds = args.rounds or (20 if args.measurement == "kills" else 5)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
