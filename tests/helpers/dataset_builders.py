"""Miniature folders in exactly the formats in which the published datasets are shipped: one function a dataset.

Each writes tiny JPEGs and annotations below `root` and returns the image ids of each split. The redder a photo, the
higher its score, so that a model can learn something from a handful of them.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
from PIL import Image

from charm_hf.models.presets_charm import AADB_ATTRIBUTES


SplitIds = dict[str, list[str]]
TINY = {"train": 6, "validation": 3, "test": 3}


def write_ava(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """AVA, with comments; the "validation" images are part of its training part, since it has no such split."""
    ids: SplitIds = {"train": [], "test": []}
    lines, comments = [], []
    for index, (split, level) in enumerate(_levels(sizes, seed), start=1):
        image_id = str(1000 + 7 * index)
        ids["test" if split == "test" else "train"].append(image_id)
        save_photo(root / "images" / f"{image_id}.jpg", level, seed=index)
        lines.append(f"{index} {image_id} {' '.join(map(str, _votes(level, 10)))} 1 22 1396")
        if index % 3:
            comments.append(f"{index - 1}#{image_id}#great light, number {index}#I like it\n")
    _write(root / "AVA.txt", "".join(line + "\n" for line in lines))
    _write(root / "aesthetics_image_lists" / "generic_test.jpgl", "".join(f"{i}\n" for i in ids["test"]))
    _write(root / "AVA_Comments_Full.txt", "".join(comments))
    return ids


def write_aadb(root: Path, sizes: dict[str, int] = TINY, seed: int = 0, prefix_in_list: bool = False) -> SplitIds:
    """AADB; files of the new test carry their score in front of their names, and their list may as well."""
    parts = {"train": "Train", "validation": "Validation", "test": "TestNew"}
    ids: SplitIds = {split: [] for split in parts}
    lists: dict[str, list[str]] = {}
    for index, (split, level) in enumerate(_levels(sizes, seed), start=1):
        name = f"farm1_{index}_{20000000000 + index}_b.jpg"
        ids[split].append(name)
        prefixed = f"{level:.3f}_{name}" if split == "test" else name
        folder = "AADB_newtest_originalSize" if split == "test" else "datasetImages_originalSize"
        save_photo(root / folder / prefixed, level, seed=index)
        listed = prefixed if prefix_in_list else name
        for attribute in ("score", *AADB_ATTRIBUTES):
            value = level if attribute == "score" else math.cos(index + len(attribute))
            file = f"imgList{parts[split]}Regression_{attribute}.txt"
            lists.setdefault(file, []).append(f"{listed} {value:.4f}\n")
    for file, lines in lists.items():
        _write(root / "imgListFiles_label" / file, "".join(lines))
    return ids


def write_para(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """PARA; no validation part."""
    levels = [f"aestheticScore_{1 + step / 2:.1f}" for step in range(9)]
    header = ["imageName", "sessionId", "semantic", *levels, "aestheticScore_mean", "qualityScore_mean"]
    ids: SplitIds = {"train": [], "test": []}
    rows: dict[str, list[list[object]]] = {"train": [], "test": []}
    for index, (split, level) in enumerate(_levels(sizes, seed), start=1):
        part = "test" if split == "test" else "train"
        name, session = f"iaa_pub{index}_.jpg", f"session{1 + index % 2}"
        ids[part].append(f"{session}/{name}")
        save_photo(root / "imgs" / session / name, level, seed=index)
        rows[part].append([name, session, "scene", *_votes(level, 9), round(1 + 4 * level, 3), 3.0])
    write_csv(root / "annotation" / "PARA-GiaaTrain.csv", header, rows["train"])
    write_csv(root / "annotation" / "PARA-GiaaTest.csv", header, rows["test"])
    return ids


def write_tad66k(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """TAD66K; no validation part, Windows line ends."""
    return _write_scored(root, sizes, seed, {"train": "train.csv", "test": "test.csv"}, "lanphere{}.jpg", "\r\n")


def write_baid(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """BAID."""
    files = {"train": "train_set.csv", "validation": "val_set.csv", "test": "test_set.csv"}
    return _write_scored(root, sizes, seed, files, "{}.jpg", "\n")


def write_spaq(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """SPAQ; no official split, all ids come back under "all"."""
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.append(["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"])
    ids = []
    for index, (_, level) in enumerate(_levels(sizes, seed), start=1):
        ids.append(f"{index:05d}.jpg")
        save_photo(root / "TestImage" / ids[-1], level, seed=index)
        sheet.append([ids[-1], round(100 * level, 2), 50, 50, 50, 50, 50])
    (root / "Annotations").mkdir(parents=True)
    workbook.save(root / "Annotations" / "MOS and Image attribute scores.xlsx")
    return {"all": ids}


def write_koniq10k(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """KonIQ-10k with the file that has official splits and MOS from 0 to 100."""
    header = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set"]
    names = {"train": "training", "validation": "validation", "test": "test"}
    ids: SplitIds = {split: [] for split in names}
    rows = []
    for index, (split, level) in enumerate(_levels(sizes, seed), start=1):
        name = f"{826373 + index}.jpg"
        ids[split].append(name)
        save_photo(root / "1024x768" / name, level, seed=index)
        rows.append([name, *_votes(level, 5), 100, round(100 * level, 4), 0.5, names[split]])
    write_csv(root / "koniq10k_distributions_sets.csv", header, rows)
    return ids


def write_koniq10k_without_sets(root: Path, sizes: dict[str, int] = TINY, seed: int = 0) -> SplitIds:
    """KonIQ-10k with the file that has no splits and MOS from 1 to 5; all ids come back under "all"."""
    header = ["image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "MOS_zscore"]
    ids, rows = [], []
    for index, (_, level) in enumerate(_levels(sizes, seed), start=1):
        ids.append(f"{826373 + index}.jpg")
        save_photo(root / "1024x768" / ids[-1], level, seed=index)
        rows.append([ids[-1], *_votes(level, 5), 100, round(1 + 4 * level, 4), 0.5, round(100 * level, 4)])
    write_csv(root / "koniq10k_scores_and_distributions.csv", header, rows)
    return {"all": ids}


BUILDERS: dict[str, Callable[..., SplitIds]] = {
    "ava": write_ava,
    "aadb": write_aadb,
    "tad66k": write_tad66k,
    "para": write_para,
    "baid": write_baid,
    "spaq": write_spaq,
    "koniq10k": write_koniq10k,
}


def save_photo(path: Path, level: float, seed: int = 0, size: tuple[int, int] = (48, 36)) -> None:
    """Write a small JPEG of noise on a tint between blue (0) and red (1); `size` is width and height."""
    tint = (round(255 * level), 64, round(255 * (1 - level)))
    noise = random.Random(seed).randbytes(3 * size[0] * size[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(Image.new("RGB", size, tint), Image.frombytes("RGB", size, noise), 0.2).save(path, quality=90)


def write_csv(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], newline: str = "\n", bom: bool = False
) -> None:
    """Write a table with the line ends and, if wanted, the byte order mark of another system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        csv.writer(file, lineterminator=newline).writerows([header, *rows])


def _write_scored(
    root: Path, sizes: dict[str, int], seed: int, files: dict[str, str], pattern: str, newline: str
) -> SplitIds:
    ids: SplitIds = {split: [] for split in files}
    rows: dict[str, list[list[object]]] = {split: [] for split in files}
    for index, (split, level) in enumerate(_levels(sizes, seed), start=1):
        part = split if split in files else "train"
        ids[part].append(pattern.format(54810922 + index))
        save_photo(root / "images" / ids[part][-1], level, seed=index)
        rows[part].append([ids[part][-1], round(10 * level, 3)])
    for part, file in files.items():
        write_csv(root / file, ["image", "score"], rows[part], newline=newline)
    return ids


def _levels(sizes: dict[str, int], seed: int) -> list[tuple[str, float]]:
    """Split and quality in [0.05, 0.95] of each image, splits mixed."""
    generator = random.Random(seed)
    splits = [split for split, size in sizes.items() for _ in range(size)]
    generator.shuffle(splits)
    return [(split, generator.uniform(0.05, 0.95)) for split in splits]


def _votes(level: float, bins: int) -> list[int]:
    """Counts of 100-odd votes around a quality, none of them negative."""
    weights = [math.exp(-(((index / (bins - 1)) - level) ** 2) / 0.05) for index in range(bins)]
    return [round(100 * weight / sum(weights)) for weight in weights]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
