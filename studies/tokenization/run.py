"""Make the tokenization study again: tokens, runs, `results.csv` of each study.

    python -m studies.tokenization.run --workers 2                            # all that needs no data
    python -m studies.tokenization.run --workers 2 --data-dir PATH_TO_OASIS   # and the study on real ratings
    python -m studies.tokenization.run --workers 2 --size full                # the published form
    python -m studies.tokenization.run --workers 2 --size large               # photos of 0.3 to 6 megapixels

Each run leaves a JSON file in `--work-dir`; started again, the command goes on with what is missing. `--data-dir`
holds `images/` and `ratings.csv` (columns `image`, `category`, `mean`). `report.py` turns the results into
tables and plots.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charm_hf.files import replaced_file, write_json
from studies.oasis.photos import OasisData
from studies.results import write_rows
from studies.tokenization.arms import ARMS, ARMS_OF_STUDY, OVERFLOW_ARMS, TOKENIZATIONS
from studies.tokenization.faults import FAULTS
from studies.tokenization.planted_images import MAX_AREA, MIN_AREA, QUESTIONS, make_planted_image
from studies.tokenization.token_cache import TokenCache, ensure_cache, flip_tokens, load_cache
from studies.tokenization.training import Part, Recipe, gmacs, predict, run, stack_targets


STUDIES = ("planted", "faults", "selection", "oasis")
# The arm that the faults are put into: the published recipe.
FAULTY_ARM = "charm-recipe"
# The arm whose models are asked about several draws of one image.
DRAWN_ARM = "charm-random"
# The arms that are tried on real ratings.
OASIS_ARMS = ("charm-recipe", "squash", "centre-crop", "kept-aspect")
COLUMNS = ("arm", "factor", "seed", "srcc", "plcc", "tokens", "gmacs", "seconds", "best_epoch")


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes:
        recipe, oasis_recipe: of the models.
        one_at_a_time: a model of its own for each question; otherwise one model answers all of them.
        fault_questions: that the faults are asked about, if they are asked one at a time.
        image_seed: of the planted images.
        pool, validation, test: images that are trained on or validated on (another split for each seed), how many of
            them for validation, and the test images, the same for every seed.
        scale: of the sides of the planted images.
        areas: smallest and largest number of their pixels.
        arms: which of `ARMS_OF_STUDY` are compared on them.
        draws: of each training image for random tokenizations.
        view_images, views: test images, and draws of each, for the selection study.
        seeds: 0 … seeds - 1.
    """

    recipe: Recipe
    oasis_recipe: Recipe
    one_at_a_time: bool = False
    fault_questions: tuple[str, ...] = ("placement", "all")
    image_seed: int = 2026
    pool: int = 700
    validation: int = 100
    test: int = 200
    scale: float = 1.0
    areas: tuple[int, int] = (MIN_AREA, MAX_AREA)
    arms: str = "planted"
    draws: int = 2
    view_images: int = 64
    views: int = 16
    seeds: int = 5


SIZES = {
    "smoke": Size(
        recipe=Recipe(16, 64, hidden_size=16, num_heads=2, num_layers=1, updates=4, batch_size=4, evaluations=2),
        oasis_recipe=Recipe(16, 64, hidden_size=16, num_heads=2, num_layers=1, updates=2, batch_size=4),
        pool=12,
        validation=4,
        test=6,
        scale=1 / 4,
        view_images=3,
        views=4,
        seeds=2,
    ),
    "quick": Size(
        recipe=Recipe(updates=140),
        oasis_recipe=Recipe(patch_size=40, max_num_patches=56, updates=40, batch_size=16),
    ),
    "full": Size(
        recipe=Recipe(),
        oasis_recipe=Recipe(patch_size=40, max_num_patches=56, updates=160, batch_size=16),
        one_at_a_time=True,
        pool=2_600,
        validation=200,
        test=400,
    ),
    # Photos of 0.3 to 6 megapixels: what is to become of tokens that exceed the limit.
    "large": Size(
        recipe=Recipe(updates=400),
        oasis_recipe=Recipe(patch_size=40, max_num_patches=56),
        pool=360,
        validation=60,
        test=140,
        areas=(300_000, 6_000_000),
        arms="sizes",
        seeds=3,
    ),
}


@dataclass(frozen=True)
class Job:
    """One run: an arm or a fault with a seed, asked one question or (unnamed) all of them; or a fold of OASIS."""

    study: str
    arm: str
    seed: int
    question: str = ""
    fold: int = -1

    @property
    def name(self) -> str:
        """Of its file."""
        fold = "" if self.fold < 0 else f"fold{self.fold}"
        return "-".join(part for part in (self.study, self.arm, self.question, fold, f"seed{self.seed}") if part)

    @property
    def questions(self) -> tuple[str, ...]:
        """What its model answers."""
        return (self.question,) if self.question else QUESTIONS


def list_jobs(studies: Sequence[str], size: Size) -> list[Job]:
    """All runs, seed by seed, so that a study that is stopped leaves complete seeds behind."""
    apart = size.one_at_a_time
    jobs: dict[Job, None] = {}  # a set in order: two studies may share a run
    for seed in range(size.seeds):
        if "planted" in studies:
            jobs |= {
                Job("planted", arm, seed, asked): None
                for arm in ARMS_OF_STUDY[size.arms]
                for asked in (QUESTIONS if apart else ("",))
            }
        if "selection" in studies:
            jobs |= {Job("planted", DRAWN_ARM, seed, "all" if apart else ""): None}
        if "faults" in studies:
            for asked in size.fault_questions if apart else ("",):
                # Our defaults are the arm of the other study, with the same seed.
                jobs |= {Job("planted", FAULTY_ARM, seed, asked): None}
                jobs |= {Job("faults", fault, seed, asked): None for fault in FAULTS if fault != "ours"}
        if "oasis" in studies:
            jobs |= {Job("oasis", arm, seed, fold=fold): None for arm in OASIS_ARMS for fold in range(5)}
    return list(jobs)


def list_tokenizations(studies: Sequence[str], size: Size) -> list[str]:
    """Tokenizations of the planted images that the runs read."""
    found = ARMS_OF_STUDY[size.arms]
    arms = set(found) if "planted" in studies else {DRAWN_ARM} if "selection" in studies else set()
    arms |= {FAULTY_ARM} if "faults" in studies else set()
    return sorted({name for arm in arms for name in (found[arm].train, found[arm].evaluate)})


@dataclass(frozen=True)
class Study:
    """Where things are, and how large."""

    size: Size
    work_dir: Path
    data_dir: Path | None
    device: str = "cpu"

    def photos(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """All planted images: the pool, then the test images."""
        return _planted(self.size, 0, self.size.pool + self.size.test)[0]

    def targets(self) -> np.ndarray:
        """(N, 5) of the planted images."""
        path = self.work_dir / "planted" / "targets.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, _planted(self.size, 0, self.size.pool + self.size.test)[1])
        return np.load(path)

    def tokens(self, tokenization: str) -> Path:
        """Tokens of the planted images."""
        recipe, folder = self.size.recipe, self.work_dir / "planted"
        return ensure_cache(
            folder,
            TOKENIZATIONS[tokenization],
            self.photos,
            recipe.patch_size,
            recipe.max_num_patches,
            self.size.draws,
        )

    def views(self) -> Path:
        """Many random draws of the first test images."""
        size = self.size
        return ensure_cache(
            self.work_dir / "views",
            TOKENIZATIONS["charm-random"],
            lambda: _planted(size, size.pool, size.pool + size.view_images)[0],
            size.recipe.patch_size,
            size.recipe.max_num_patches,
            size.views,
        )


@lru_cache(maxsize=1)
def _planted(size: Size, first: int, end: int) -> tuple[list[tuple[np.ndarray, np.ndarray | None]], np.ndarray]:
    images = [make_planted_image(size.image_seed, index, size.scale, size.areas) for index in range(first, end)]
    return [(image.pixels, image.saliency) for image in images], stack_targets(
        [image.factors for image in images], QUESTIONS
    )


def split_pool(size: Size, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices for training, validation and test; only the last is the same for every seed."""
    order = np.random.default_rng([7, seed]).permutation(size.pool)
    return order[size.validation :], order[: size.validation], size.pool + np.arange(size.test)


def make_tokens(tokenization: str, study: Study) -> str:
    """Make the tokens of the planted images in one way, unless they are there; gives its name."""
    study.tokens(tokenization)
    study.targets()
    return f"tokens {tokenization}"


def run_job(job: Job, study: Study) -> str:
    """Do a run and write its file, unless it is there; gives its name."""
    path = study.work_dir / "results" / f"{job.name}.json"
    if path.exists():
        return job.name
    result = _run_oasis(job, study) if job.study == "oasis" else _run_planted(job, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**asdict(job), **result})
    return job.name


def _run_planted(job: Job, study: Study) -> dict[str, Any]:
    arm = ARMS_OF_STUDY[study.size.arms][FAULTY_ARM if job.study == "faults" else job.arm]
    fault = job.arm if job.study == "faults" else "ours"
    train, evaluate = load_cache(study.tokens(arm.train)), load_cache(study.tokens(arm.evaluate))
    views = load_cache(study.views()) if job.arm == DRAWN_ARM and "all" in job.questions else None
    targets = study.targets()[:, [QUESTIONS.index(name) for name in job.questions]]
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
        for question, outcome in zip(job.questions, outcomes, strict=True)
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
        load_cache(
            ensure_cache(
                study.work_dir / "oasis",
                TOKENIZATIONS[name],
                data.photos,
                recipe.patch_size,
                recipe.max_num_patches,
                study.size.draws,
            )
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
    asked = {result["question"] for result in results if result["study"] == "faults"}
    faultless = [
        result
        for result in results
        if result["study"] == "planted" and result["arm"] == FAULTY_ARM and result["question"] in asked
    ]
    results += [{**result, "study": "faults", "arm": "ours"} for result in faultless]
    for study in ("planted", "faults", "oasis"):
        found = [result for result in results if result["study"] == study]
        if found:
            write_rows(output_dir / study / "results.csv", COLUMNS, _rows(found))
    drawn = [result for result in results if "views" in result and result["study"] == "planted"]
    if drawn:
        write_rows(output_dir / "selection" / "results.csv.gz", ("seed", "image", "draw", "score"), _view_rows(drawn))
    planted = [result for result in results if result["study"] == "planted"]
    if planted:
        header = ("arm", "tokens", "gmacs", "tokenize_ms", "score_ms", "train_seconds")
        write_rows(output_dir / "planted" / "costs.csv", header, _cost_rows(planted))


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
    for arm in dict.fromkeys([*ARMS, *OVERFLOW_ARMS]):
        found = [result for result in results if result["arm"] == arm]
        if found:
            names = ("tokens", "gmacs", "tokenize_ms", "score_ms", "seconds")
            yield arm, *(round(float(np.median([result[name] for result in found])), 4) for name in names)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _results(function: Any, items: Sequence[Any], study: Study, workers: int) -> Iterator[str]:
    """What the function gives for each item, from so many processes of one thread; whoever is free takes the next."""
    if workers == 1:
        _one_thread()
        yield from (function(item, study) for item in items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        waiting = [pool.submit(function, item, study) for item in items]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def do_all(function: Any, items: Sequence[Any], study: Study, workers: int) -> None:
    """Do all items and say how it goes."""
    started = time.time()
    for number, name in enumerate(_results(function, items, study, workers), start=1):
        print(f"{number}/{len(items)} {name}, {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    _planted.cache_clear()


def claim_work_dir(study: Study) -> None:
    """Write down what the runs in the folder are made with; refuse a folder whose runs were made otherwise."""
    written = json.dumps({name: value for name, value in asdict(study.size).items() if name != "seeds"}, indent=1)
    path = study.work_dir / "size.json"
    if path.exists() and path.read_text() != written:
        raise SystemExit(f"{study.work_dir} holds runs of other settings: give another --work-dir or delete it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written)


def main(argv: Sequence[str] | None = None) -> None:
    """From the flags to the CSV files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, help="default: all that can be done")
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--data-dir", type=Path, help="folder of OASIS, for the study on real ratings")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/tokenization_study"))
    parser.add_argument("--output-dir", type=Path, help="of the CSV files; default: WORK_DIR/SIZE/tables")
    parser.add_argument("--seeds", type=int, help="instead of those of the size")
    parser.add_argument("--device", default="cpu", help="to train on")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    args = parser.parse_args(argv)
    all_studies = STUDIES if SIZES[args.size].arms == "planted" else ("planted",)
    studies = args.studies or [name for name in all_studies if name != "oasis" or args.data_dir]
    if "oasis" in studies and args.data_dir is None:
        parser.error("the study on real ratings needs --data-dir")
    size = SIZES[args.size] if args.seeds is None else replace(SIZES[args.size], seeds=args.seeds)
    study = Study(size, args.work_dir / args.size, args.data_dir, args.device)
    claim_work_dir(study)
    # The tokens first: their makers hold all images in memory and are gone before the runs begin.
    do_all(make_tokens, list_tokenizations(studies, size), study, args.workers)
    do_all(run_job, list_jobs(studies, size), study, args.workers)
    collect(study.work_dir, args.output_dir or study.work_dir / "tables")


if __name__ == "__main__":
    main()
