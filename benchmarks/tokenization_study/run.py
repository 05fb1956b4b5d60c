"""Make the tokenization study again: tokens, runs, `results/*.csv`, tables and plots of `docs/evidence.md`.

    python -m benchmarks.tokenization_study.run                                # everything that needs no data
    python -m benchmarks.tokenization_study.run --data-dir PATH_TO_OASIS       # and the study on real ratings
    python -m benchmarks.tokenization_study.run --size full --device cuda      # larger model, images and training

Each run leaves a JSON file in `--work-dir`; started again, the command goes on with what is missing. `--data-dir`
holds `images/` and `ratings.csv` (columns `image`, `category`, `mean`). `report.py` turns the results into tables.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tokenization_study.arms import ARMS
from benchmarks.tokenization_study.faults import FAULTS
from benchmarks.tokenization_study.oasis import OASIS_ARMS, OasisData, flip_tokens
from benchmarks.tokenization_study.planted_images import QUESTIONS, make_planted_image
from benchmarks.tokenization_study.token_cache import TokenCache, load_or_make_cache
from benchmarks.tokenization_study.training import Part, Recipe, gmacs, predict, run, stack_targets


HERE = Path(__file__).parent
STUDIES = ("planted", "faults", "selection", "oasis")
# The arm that the faults are put into: the published recipe.
FAULTY_ARM = "charm-recipe"
# The arm whose models are asked about several draws of one image.
DRAWN_ARM = "charm-random"
COLUMNS = ("arm", "factor", "seed", "srcc", "plcc", "tokens", "gmacs", "seconds", "best_epoch")


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes:
        recipe, oasis_recipe: of the models.
        image_seed: of the planted images.
        pool, validation, test: images that are trained on or validated on (another split for each seed), how many of
            them for validation, and the test images, the same for every seed.
        scale: of the sides of the planted images.
        draws: of each training image for random tokenizations.
        view_images, views: test images, and draws of each, for the selection study.
        seeds: 0 … seeds - 1.
    """

    recipe: Recipe
    oasis_recipe: Recipe
    image_seed: int = 2025
    pool: int = 960
    validation: int = 100
    test: int = 240
    scale: float = 1.0
    draws: int = 2
    view_images: int = 64
    views: int = 16
    seeds: int = 5


QUICK = Size(
    recipe=Recipe(updates=200, batch_size=8, evaluations=5),
    oasis_recipe=Recipe(patch_size=40, max_num_patches=56, updates=40),
)
SIZES = {
    "smoke": replace(
        QUICK,
        recipe=Recipe(16, 64, hidden_size=16, num_heads=2, num_layers=1, updates=4, batch_size=4, evaluations=2),
        oasis_recipe=Recipe(16, 64, hidden_size=16, num_heads=2, num_layers=1, updates=2, batch_size=4),
        pool=12,
        validation=4,
        test=6,
        scale=1 / 3,
        view_images=3,
        views=4,
        seeds=2,
    ),
    "quick": QUICK,
    "full": replace(
        QUICK,
        recipe=Recipe(16, 512, 192, 6, 3, updates=20_000, batch_size=64, learning_rate=5e-4, evaluations=40),
        oasis_recipe=Recipe(16, 256, 192, 6, 3, updates=2_000, batch_size=64, learning_rate=5e-4),
        pool=10_000,
        validation=1_000,
        test=2_000,
        scale=1.25,
        draws=4,
        view_images=500,
        views=32,
    ),
}


@dataclass(frozen=True)
class Job:
    """One run: an arm (or a fault) with a seed, in a fold of OASIS."""

    study: str
    arm: str
    seed: int
    fold: int = -1

    @property
    def name(self) -> str:
        """Of its file."""
        fold = "" if self.fold < 0 else f"-fold{self.fold}"
        return f"{self.study}-{self.arm}{fold}-seed{self.seed}"


def list_jobs(studies: Sequence[str], seeds: int) -> list[Job]:
    """All runs, seed by seed, so that a run that is stopped leaves complete seeds behind."""
    jobs = []
    for seed in range(seeds):
        if "planted" in studies or "selection" in studies:
            jobs += [Job("planted", arm, seed) for arm in ARMS if "planted" in studies or arm == DRAWN_ARM]
        if "faults" in studies:
            # Our defaults are the arm of the other study, with the same seed.
            jobs += [] if "planted" in studies else [Job("planted", FAULTY_ARM, seed)]
            jobs += [Job("faults", fault, seed) for fault in FAULTS if fault != "ours"]
        if "oasis" in studies:
            jobs += [Job("oasis", arm, seed, fold) for arm in OASIS_ARMS for fold in range(5)]
    return jobs


@dataclass(frozen=True)
class Study:
    """Where things are, and how large."""

    size: Size
    work_dir: Path
    data_dir: Path | None
    device: str = "cpu"

    def photos(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """All planted images: the pool, then the test images."""
        return _planted(self.size)[0]

    def targets(self) -> np.ndarray:
        """(N, 5) of the planted images."""
        path = self.work_dir / "planted" / "targets.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path.with_suffix(f".{os.getpid()}.npy"), _planted(self.size)[1])
            path.with_suffix(f".{os.getpid()}.npy").replace(path)
        return np.load(path)

    def cache(self, tokenization: str) -> TokenCache:
        """Tokens of the planted images."""
        recipe, folder = self.size.recipe, self.work_dir / "planted"
        return load_or_make_cache(
            folder, tokenization, self.photos, recipe.patch_size, recipe.max_num_patches, self.size.draws
        )

    def views(self) -> TokenCache:
        """Many random draws of the first test images."""
        size = self.size
        return load_or_make_cache(
            self.work_dir / "views",
            "charm-random",
            lambda: self.photos()[size.pool : size.pool + size.view_images],
            size.recipe.patch_size,
            size.recipe.max_num_patches,
            size.views,
        )


@lru_cache(maxsize=1)
def _planted(size: Size) -> tuple[list[tuple[np.ndarray, np.ndarray | None]], np.ndarray]:
    images = [make_planted_image(size.image_seed, index, size.scale) for index in range(size.pool + size.test)]
    return [(image.pixels, image.saliency) for image in images], stack_targets(
        [image.factors for image in images], QUESTIONS
    )


def split_pool(size: Size, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices for training, validation and test; only the last is the same for every seed."""
    order = np.random.default_rng([7, seed]).permutation(size.pool)
    return order[size.validation :], order[: size.validation], size.pool + np.arange(size.test)


def run_job(job: Job, study: Study) -> None:
    """Do a run and write its file, unless it is there."""
    path = study.work_dir / "results" / f"{job.name}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    result = _run_oasis(job, study) if job.study == "oasis" else _run_planted(job, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**asdict(job), **result}))
    temporary.replace(path)


def _run_planted(job: Job, study: Study) -> dict[str, Any]:
    arm = ARMS[FAULTY_ARM if job.study == "faults" else job.arm]
    fault = job.arm if job.study == "faults" else "ours"
    train, evaluate = study.cache(arm.train), study.cache(arm.evaluate)
    views = study.views() if job.arm == DRAWN_ARM else None
    targets = study.targets()
    rows = split_pool(study.size, job.seed)
    training, validation, test = (
        Part(cache, part, targets[part]) for cache, part in zip((train, evaluate, evaluate), rows, strict=True)
    )
    started = time.process_time()
    outcomes, model = run(
        study.size.recipe, training, validation, test, seed=job.seed, fault=fault, device=study.device
    )
    result = _costs(study.size.recipe, evaluate, 1, started)
    result["rows"] = [
        {"factor": question, "srcc": outcome.srcc, "plcc": outcome.plcc, "best_epoch": outcome.best_epoch}
        for question, outcome in zip(QUESTIONS, outcomes, strict=True)
    ]
    started = time.process_time()
    predict(model, test)
    result["score_ms"] = (time.process_time() - started) * 1000 / study.size.test
    if views is not None:
        images = np.arange(study.size.view_images)
        part = Part(views, images, targets[:0])
        result["views"] = [
            predict(model, part, draw=draw)[:, -1].round(5).tolist() for draw in range(study.size.views)
        ]
    return result


def _run_oasis(job: Job, study: Study) -> dict[str, Any]:
    assert study.data_dir is not None
    recipe, arm = study.size.oasis_recipe, ARMS[job.arm]
    data = OasisData.read(study.data_dir)
    train, evaluate = (
        load_or_make_cache(
            study.work_dir / "oasis",
            name,
            data.photos,
            recipe.patch_size,
            recipe.max_num_patches,
            study.size.draws,
        )
        for name in (arm.train, arm.evaluate)
    )
    folds = data.folds(job.seed)
    inside, held_out = np.flatnonzero(folds != job.fold), np.flatnonzero(folds == job.fold)
    started = time.process_time()
    outcomes, _ = run(
        recipe,
        Part(train, inside, data.targets[inside]),
        None,
        Part(evaluate, held_out, data.targets[held_out]),
        seed=job.seed * 5 + job.fold,
        augment=partial(flip_tokens, patch_size=recipe.patch_size),
        device=study.device,
    )
    result = _costs(recipe, evaluate, 3, started)
    found = outcomes[0]
    row = {"factor": f"fold {job.fold}", "srcc": found.srcc, "plcc": found.plcc, "best_epoch": found.best_epoch}
    return {**result, "rows": [row]}


def _costs(recipe: Recipe, cache: TokenCache, channels: int, started: float) -> dict[str, Any]:
    return {
        "tokens": cache.mean_tokens,
        "gmacs": gmacs(recipe, cache.mean_tokens, channels),
        "seconds": time.process_time() - started,
        "tokenize_ms": cache.milliseconds,
    }


def collect(work_dir: Path, output_dir: Path) -> None:
    """Write the CSV files of all runs that are there."""
    results = [json.loads(path.read_text()) for path in sorted((work_dir / "results").glob("*.json"))]
    faultless = [result for result in results if result["study"] == "planted" and result["arm"] == FAULTY_ARM]
    results += [{**result, "study": "faults", "arm": "ours"} for result in faultless]
    for study in ("planted", "faults", "oasis"):
        found = [result for result in results if result["study"] == study]
        if found:
            _write_csv(output_dir / study / "results.csv", COLUMNS, _rows(found))
    drawn = [result for result in results if "views" in result and result["study"] == "planted"]
    if drawn:
        _write_csv(output_dir / "selection" / "results.csv", ("seed", "image", "draw", "score"), _view_rows(drawn))
    planted = [result for result in results if result["study"] == "planted"]
    if planted:
        header = ("arm", "tokens", "gmacs", "tokenize_ms", "score_ms", "train_seconds")
        _write_csv(output_dir / "planted" / "costs.csv", header, _cost_rows(planted))


def _rows(results: list[dict[str, Any]]) -> Iterator[Sequence[Any]]:
    for result in results:
        for row in result["rows"]:
            values = {**result, **row}
            digits = {"srcc": 4, "plcc": 4, "tokens": 1, "gmacs": 5, "seconds": 2, "best_epoch": 2}
            yield [round(values[name], digits[name]) if name in digits else values[name] for name in COLUMNS]


def _view_rows(results: list[dict[str, Any]]) -> Iterator[Sequence[Any]]:
    for result in results:
        for draw, scores in enumerate(result["views"]):
            for image, score in enumerate(scores):
                yield result["seed"], image, draw, score


def _cost_rows(results: list[dict[str, Any]]) -> Iterator[Sequence[Any]]:
    for arm in ARMS:
        found = [result for result in results if result["arm"] == arm]
        if found:
            names = ("tokens", "gmacs", "tokenize_ms", "score_ms", "seconds")
            yield arm, *(round(float(np.median([result[name] for result in found])), 4) for name in names)


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def run_shard(jobs: Sequence[Job], study: Study) -> None:
    """Do runs one after the other, and say how it goes."""
    for number, job in enumerate(jobs, start=1):
        started = time.time()
        run_job(job, study)
        print(f"{number}/{len(jobs)} {job.name} {time.time() - started:.0f} s", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """From the flags to the CSV files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, help="default: all that can be done")
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--data-dir", type=Path, help="folder of OASIS, for the study on real ratings")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/tokenization_study"))
    parser.add_argument("--output-dir", type=Path, default=HERE / "results")
    parser.add_argument("--seeds", type=int, help="instead of those of the size")
    parser.add_argument("--device", default="cpu", help="to train on")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    studies = args.studies or [name for name in STUDIES if name != "oasis" or args.data_dir]
    if "oasis" in studies and args.data_dir is None:
        parser.error("the study on real ratings needs --data-dir")
    size = SIZES[args.size] if args.seeds is None else replace(SIZES[args.size], seeds=args.seeds)
    study = Study(size, args.work_dir / args.size, args.data_dir, args.device)
    jobs = list_jobs(studies, size.seeds)
    if args.shard is not None:
        run_shard(jobs[args.shard :: args.workers], study)
        return
    if args.workers == 1:
        run_shard(jobs, study)
    else:
        command = [sys.executable, "-m", __spec__.name, *(sys.argv[1:] if argv is None else argv)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        shards = [
            subprocess.Popen([*command, "--shard", str(shard)], env=environment) for shard in range(args.workers)
        ]
        if any([shard.wait() for shard in shards]):
            raise SystemExit("A worker failed; start again to go on.")
    collect(study.work_dir, args.output_dir)


if __name__ == "__main__":
    main()
