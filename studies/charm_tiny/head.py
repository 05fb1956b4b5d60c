"""Give the distilled encoder a head in closed form: what the teachers' ridge says of every photo, and the votes.

    python -m studies.charm_tiny.head --model_name_or_path DISTILLED --photos PHOTOS --feature_cache MAPS \
        --config studies/charm_tiny/votes.yaml --data_dir OASIS [--fold 0] --output_dir HEADED

A ridge regression on the teachers' pooled features, fitted on the rated photos, gives a distribution of votes to each
photo (see `examples/distill.py`). A second one, on what the encoder says of the same photos, learns the logarithms of
these distributions, and those of the votes with `VOTE_WEIGHT`: its weights become the classifier. The encoder stays.
With `--fold`, neither sees a photo of that fold.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from tqdm.auto import tqdm

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.training.building import build_head, build_model
from charm_hf.training.partition import hold_out_fold, load_clean_split, require_scale
from charm_hf.training.teacher_maps import TeacherMaps, fit_ridge


# Chosen by cross-validation on the rated photos: strength of the ridge, and what a vote counts beside a guess.
ALPHA, VOTE_WEIGHT = 1000.0, 5.0
SMALLEST_SHARE = 0.01
SUFFIXES = (".jpg", ".jpeg", ".png")
HEADS_FILE = "distillation.safetensors"


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
    return ridge.coef_ / std, ridge.intercept_ - (ridge.coef_ / std) @ mean


def main(argv: list[str] | None = None) -> None:
    """Write the model with its new head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_name_or_path", required=True)
    add("--photos", type=Path, nargs="+", required=True)
    add("--feature_cache", type=Path, required=True, help="as examples/distill.py left it, the rated photos included")
    add("--data_dir", required=True)
    add("--fold", type=int)
    add("--max_num_patches", type=int, default=104)
    add("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    everything = load_rated(args.data_dir)
    rated = everything
    if args.fold is not None:
        rated, _ = hold_out_fold(everything, args.fold, stratify_column="category")

    maps = TeacherMaps(args.feature_cache, [], 0, 512, torch.device("cpu"))
    paths = sorted(path for folder in args.photos for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    others = list(dict.fromkeys(maps.fill(paths, 0, 0)))
    undecoded = everything.cast_column("image", datasets.Image(decode=False))["image"]
    all_keys = maps.fill([Path(photo["path"]) for photo in undecoded], 0, 0)
    key_of = dict(zip(everything["image_id"][:], all_keys, strict=True))
    rated_keys = [key_of[name] for name in rated["image_id"][:]]

    head = build_head(rated, require_scale(rated))
    model = build_model(args.model_name_or_path, None, head).eval()
    options = {"max_num_patches": args.max_num_patches, "overflow": "coarsen"}
    processor = CharmImageProcessor.from_pretrained(args.model_name_or_path, **options)
    # One cache for all folds: the encoder has seen neither votes nor rated photos.
    rows = dict(zip([*others, *all_keys], encode(model, processor, maps, [*others, *all_keys]), strict=True))
    keys = [*others, *rated_keys]
    pooled = np.stack([maps.pooled(key) for key in keys])
    ridge = fit_ridge(pooled[len(others) :], rated)
    votes = np.array(rated["distribution"][:])
    numbers = np.arange(len(others), len(keys))
    weight, bias = fit_head(np.stack([rows[key] for key in keys]), ridge(pooled), numbers, votes)
    model.classifier.weight.data.copy_(torch.from_numpy(weight))
    model.classifier.bias.data.copy_(torch.from_numpy(bias))
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    if (heads := Path(args.model_name_or_path) / HEADS_FILE).exists():  # for a distillation that goes on
        shutil.copy(heads, args.output_dir)
    if args.fold is not None:
        _, held_out = hold_out_fold(everything, args.fold, stratify_column="category")
        encoded = torch.from_numpy(np.stack([rows[key_of[name]] for name in held_out["image_id"][:]]))
        values = torch.tensor(head["score_values"])
        scores = model.classifier(encoded).softmax(-1).detach() @ values
        srcc = spearmanr(scores, held_out["score"][:])[0]
        print(f"fold {args.fold}: SRCC {srcc:.4f}")


if __name__ == "__main__":
    main()
