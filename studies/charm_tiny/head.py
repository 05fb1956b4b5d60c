"""Give the distilled encoder a head in closed form: what the teachers' ridge says of every photo, and the votes.

    python -m studies.charm_tiny.head --model_name_or_path DISTILLED --photos PHOTOS --feature_cache MAPS \
        --teacher TEACHER … --data_dir OASIS --cross_validate studies/charm_tiny/results.csv --output_dir HEADED

A ridge regression on the teachers' pooled features, fitted on the rated photos, gives a distribution of votes to each
photo (see `examples/distill.py`). A second one, on what the encoder says of the same photos, learns the logarithms of
these distributions, and those of the votes with `VOTE_WEIGHT`: its weights become the classifier. The encoder stays.
In the cross-validation neither sees a photo of the fold that is held out.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from tqdm.auto import tqdm

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.training.building import build_head, build_model
from charm_hf.training.partition import assign_folds, load_clean_split, require_scale
from charm_hf.training.teacher_maps import TeacherMaps, fit_ridge
from studies.charm_tiny.baselines import metrics
from studies.results import write_rows


# Chosen by cross-validation on the rated photos: strength of the ridge, and what a vote counts beside a guess.
ALPHA, VOTE_WEIGHT = 10_000.0, 5.0
SMALLEST_SHARE = 0.01
SUFFIXES = (".jpg", ".jpeg", ".png")


@torch.no_grad()
def encode(
    model: CharmForAestheticScoring, processor: CharmImageProcessor, maps: TeacherMaps, keys: list[str]
) -> np.ndarray:
    """Pooled features (N, 2d) of whole photos; kept beside the maps, by the weights that gave them."""
    digest = hashlib.sha1(repr([processor.to_dict(), keys]).encode(), usedforsecurity=False)
    for tensor in model.charm.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    cached = maps.folder / f"encoded-{digest.hexdigest()}.npy"
    if not cached.exists():
        photos = (Image.fromarray(np.array(maps[key][0])) for key in tqdm(keys, "Encoding"))
        with torch.autocast("cpu", torch.bfloat16):
            encoded = [model.charm(**processor(photo)).pooler_output[0].float().numpy() for photo in photos]
        np.save(cached, np.stack(encoded))
    return np.load(cached)


def load_rated(data_dir: str) -> datasets.Dataset:
    """All photos with votes."""
    options = {"score_range": (1.0, 7.0), "extra_columns": ["category"]}
    parts = [load_clean_split("csv", data_dir, split, **options) for split in ("train", "validation")]
    return datasets.concatenate_datasets(parts)


def logits(distributions: np.ndarray) -> np.ndarray:
    """Logarithms of distributions (N, K), of mean 0."""
    logarithms = np.log(distributions.clip(min=SMALLEST_SHARE))
    return logarithms - logarithms.mean(axis=1, keepdims=True)


def fit_head(
    encoded: np.ndarray, guesses: np.ndarray, rated: np.ndarray, votes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, 2d) and biases (K,) of a classifier.

    Args:
        encoded: (N, 2d) features of all photos.
        guesses: (N, K) what the teachers' ridge says of them.
        rated: (R,) rows of the photos with votes. votes: (R, K) their distributions.
    """
    mean, std = encoded.mean(0), encoded.std(0) + 1e-6
    inputs = (encoded - mean) / std
    weights = np.concatenate([np.ones(len(inputs)), np.full(len(rated), VOTE_WEIGHT)])
    targets = logits(np.concatenate([guesses, votes]))
    ridge = Ridge(ALPHA).fit(np.concatenate([inputs, inputs[rated]]), targets, sample_weight=weights)
    # So strong a ridge says too little of each photo: what is left of its answers is stretched to fit the votes.
    said, voted = inputs[rated] @ ridge.coef_.T, targets[len(encoded) :] - ridge.intercept_
    slopes = ridge.coef_ * float((said * voted).sum() / (said * said).sum()) / std
    return slopes, ridge.intercept_ - slopes @ mean


class Rated(NamedTuple):
    """Photos with what the encoder and the teachers say of them, those without votes first.

    Attributes:
        photos: the rated ones.
        encoded, pooled: (N, 2d) and (N, D), of all.
        others: how many have no votes.
    """

    photos: datasets.Dataset
    encoded: np.ndarray
    pooled: np.ndarray
    others: int

    def fit(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights and biases from votes on the chosen rated photos (row numbers) and guesses of the others."""
        rated = self.photos.select(chosen)
        rows = np.concatenate([np.arange(self.others), self.others + chosen])
        ridge = fit_ridge(self.pooled[self.others + chosen], rated)
        numbers = np.arange(self.others, len(rows))
        return fit_head(self.encoded[rows], ridge(self.pooled[rows]), numbers, np.array(rated["distribution"][:]))

    def predict(self, chosen: np.ndarray, head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """What a head says of rated photos: distributions of votes, (len(chosen), K)."""
        logits = self.encoded[self.others + chosen] @ head[0].T + head[1]
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)


def cross_validate(rated: Rated, values: np.ndarray, path: Path, predictions: Path) -> None:
    """Five folds; neither votes nor pixels of the held-out photos are seen. Writes a row a fold, prints means.

    The interval of SRCC draws the photos of each fold anew.

    Args:
        rated: photos.
        values: centres of the bins.
        path: table of the folds.
        predictions: table of the distribution that each photo got while it was held out, for the calibration study.
    """
    names, categories = rated.photos["image_id"][:], rated.photos["category"][:]
    folds, rating = np.array(assign_folds(names, categories, 0)), np.array(rated.photos["score"][:])
    shares, rows = np.zeros((len(folds), len(values))), []
    for fold in range(5):
        held_out = np.flatnonzero(folds == fold)
        shares[held_out] = rated.predict(held_out, rated.fit(np.flatnonzero(folds != fold)))
        predicted = shares @ values
        rows.append({"seed": 0, "fold": fold, **metrics(predicted[held_out], rating[held_out])})
    write_rows(path, list(rows[0]), [list(row.values()) for row in rows])
    header = ("image_id", *(f"p_{value:g}" for value in values))
    write_rows(predictions, header, [(name, *share) for name, share in zip(names, shares.round(6), strict=True)])
    for name in list(rows[0])[2:]:
        found = [row[name] for row in rows]
        print(f"{name} {np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        again = [generator.choice(photos, len(photos)) for photos in (np.flatnonzero(folds == f) for f in range(5))]
        drawn.append(np.mean([spearmanr(predicted[photos], rating[photos])[0] for photos in again]))
    print("srcc, 95 % of draws: {:.3f} to {:.3f}".format(*np.percentile(drawn, [2.5, 97.5])))


def main(argv: list[str] | None = None) -> None:
    """Write the model with its new head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_name_or_path", required=True)
    add("--photos", type=Path, nargs="+", required=True)
    add("--feature_cache", type=Path, required=True, help="maps of examples/distill.py; rated photos are added to it")
    add("--teacher", nargs="+", required=True, help="as examples/distill.py was told")
    add("--data_dir", required=True)
    add("--cross_validate", type=Path, metavar="CSV", help="five folds first, and a row for each")
    add("--max_num_patches", type=int, default=104)
    add("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    photos = load_rated(args.data_dir)
    maps = TeacherMaps(args.feature_cache, args.teacher, 192, 512, torch.device("cpu"))
    paths = sorted(path for folder in args.photos for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    others = list(dict.fromkeys(maps.fill(paths, 300, 0)))
    undecoded = photos.cast_column("image", datasets.Image(decode=False))["image"]
    keys = [*others, *maps.fill([Path(photo["path"]) for photo in undecoded], 300, 0)]

    head = build_head(photos, require_scale(photos))
    model = build_model(args.model_name_or_path, None, head).eval()
    options = {"max_num_patches": args.max_num_patches, "overflow": "coarsen"}
    processor = CharmImageProcessor.from_pretrained(args.model_name_or_path, **options)
    # The encoder has seen neither votes nor rated photos: all folds share it.
    pooled = np.stack([maps.pooled(key) for key in keys])
    rated = Rated(photos, encode(model, processor, maps, keys), pooled, len(others))
    if args.cross_validate:
        values = np.array(head["score_values"])
        cross_validate(rated, values, args.cross_validate, args.output_dir / "predictions.csv")
    weight, bias = rated.fit(np.arange(len(photos)))
    model.classifier.weight.data.copy_(torch.from_numpy(weight))
    model.classifier.bias.data.copy_(torch.from_numpy(bias))
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
