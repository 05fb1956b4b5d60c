"""Make the photos and ratings that the studies take, `images/` and `ratings.csv`, from the public downloads.

    git clone https://github.com/bkurdi/shiny-server     # photos and catalogue: Kurdi, Lozano and Banaji (2017)
    git clone https://github.com/aenneb/OASIS-beauty     # beauty votes, 1 to 7: Brielmann and Pelli (2019)
    python -m studies.oasis.run --photos shiny-server/images --catalogue shiny-server/OASIS.csv \
        --votes OASIS-beauty/corrData.mat --output-dir oasis

The authors of OASIS allow free use in research. No licence file came with either download: read what their authors ask
of users, and pass no photo on. Citations in full: `docs/datasets.md`.

Rule, frozen. Photos of the categories scene, object and animal, without 27 unpleasant themes. A photo's key is its
name without blanks, in lower case. If the SHA-1 of the key, a number, is divisible by 4, the photo is held out
(`ratings_test.csv`); if the remainder is 1 and the quotient odd, it is in the validation part; else it is in the
training part. The studies cross-validate on these two, `ratings.csv`, and tune on nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.io

from charm_hf.tables import Table
from studies.results import write_rows


CATEGORIES = {"scenery": "scene", "scene": "scene", "object": "object", "animal": "animal"}
UNPLEASANT = frozenset(
    (
        *("alcohol", "animalcarcass", "bloodyknife", "caraccident", "carcrash", "cemetery", "cockroach"),
        *("destruction", "dogattack", "explosion", "feces", "fire", "flood", "funeral", "graveyard", "gun", "jail"),
        *("knife", "planecrash", "prison", "shot", "soldiers", "toilet", "tornado", "torturechamber", "war", "weapon"),
    )
)
BINS = 7
HEADER = ("image", "category", "theme", "split", *(f"c{value}" for value in range(1, BINS + 1)), "n", "mean")
# Of `ratings.csv` as the published studies read it: 335 photos.
PUBLISHED_SHA256 = "2798afec7a9b09ec03604dbda69ad6a2d0d54ad117ea839f950338ae2d44a778"


def key_of(name: str) -> str:
    """Key of a photo: `Acorns 3` becomes `acorns3`."""
    return "".join(name.split()).lower()


def split_of(key: str) -> str:
    """`train`, `validation` or `test`."""
    number = int(hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(), 16)
    if number % 4 == 0:
        return "test"
    return "validation" if number % 4 == 1 and number // 4 % 2 else "train"


def read_catalogue(path: Path) -> list[tuple[str, str, str]]:
    """Key, category and theme of each photo, in the catalogue's order; no category for what the studies leave out."""
    photos = []
    for row in Table(path).rows():
        key = key_of(row["Theme"])
        theme = key.rstrip("0123456789")
        category = CATEGORIES.get(row["Category"].strip().lower(), "")
        photos.append((key, "" if theme in UNPLEASANT else category, theme))
    return photos


def read_votes(path: Path, count: int) -> np.ndarray:
    """Number of votes for each value, (count, 7), of the photos of the catalogue.

    Args:
        path: a `.mat` file with `corrData` (participants, photos), NaN where somebody saw no such photo, or with the
            vectors `item` (from 1, the catalogue's order) and `beauty`; or a table with columns of these names.
        count: photos in the catalogue.
    """
    content = {} if path.suffix != ".mat" else scipy.io.loadmat(path)
    if "corrData" in content:
        table = np.asarray(content["corrData"], dtype=float)
        if table.shape[1] != count:
            raise SystemExit(f"{path}: expected {count} photos, one a column, found {table.shape[1]}.")
        return np.stack([(table == value).sum(axis=0) for value in range(1, BINS + 1)], axis=1)
    if path.suffix != ".mat":
        rows = list(Table(path).rows(["item", "beauty"]))
        content = {name: [_number(row[name]) for row in rows] for name in ("item", "beauty")}
    items, beauty = (np.ravel(np.asarray(content[name], dtype=float)) for name in ("item", "beauty"))
    votes = np.zeros((count, BINS), dtype=int)
    known = np.isin(beauty, range(1, BINS + 1)) & (items >= 1) & (items <= count)
    np.add.at(votes, (items[known].astype(int) - 1, beauty[known].astype(int) - 1), 1)
    return votes


def _number(cell: object) -> float:
    try:
        return float(str(cell))
    except ValueError:  # NA
        return float("nan")


def make_rows(photos: Sequence[tuple[str, str, str]], votes: np.ndarray) -> Iterator[tuple[object, ...]]:
    """Rows of the ratings by name, without the photos that are left out."""
    for place in sorted(range(len(photos)), key=lambda place: photos[place][0]):
        key, category, theme = photos[place]
        if not category:
            continue
        counts = votes[place].tolist()
        total = sum(counts)
        if not total:
            raise SystemExit(f"{key} has no votes: are catalogue and votes in the same order?")
        mean = sum(value * number for value, number in enumerate(counts, start=1)) / total
        yield (f"{key}.jpg", category, theme, split_of(key), *counts, total, f"{mean:.4f}")


def copy_photos(source: Path, names: Sequence[str], target: Path) -> None:
    """Copy the photos of these names, whatever blanks and capitals they have at their source."""
    found = {key_of(path.stem) + ".jpg": path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg")}
    if missing := sorted(set(names) - set(found)):
        raise SystemExit(f"{source} lacks {len(missing)} photos, such as {', '.join(missing[:3])}.")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(found[name], target / name)


def main(argv: Sequence[str] | None = None) -> None:
    """From the downloads to the folder, and say whether it is the published one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the OASIS photos")
    parser.add_argument("--catalogue", type=Path, required=True, help="OASIS.csv")
    parser.add_argument("--votes", type=Path, required=True, help="corrData.mat, OASISdata.mat, or a table of votes")
    parser.add_argument("--output-dir", type=Path, required=True)
    args = parser.parse_args(argv)
    photos = read_catalogue(args.catalogue)
    rows = list(make_rows(photos, read_votes(args.votes, len(photos))))
    copy_photos(args.photos, [str(row[0]) for row in rows], args.output_dir / "images")
    ratings = args.output_dir / "ratings.csv"
    write_rows(ratings, HEADER, [row for row in rows if row[3] != "test"])
    write_rows(args.output_dir / "ratings_test.csv", HEADER, [row for row in rows if row[3] == "test"])
    found = hashlib.sha256(ratings.read_bytes()).hexdigest()
    print(f"{len(rows)} photos, ratings.csv has SHA-256 {found}", file=sys.stderr)
    if found != PUBLISHED_SHA256:
        print("It is not the file of the published studies: their numbers do not compare.", file=sys.stderr)


if __name__ == "__main__":
    main()
