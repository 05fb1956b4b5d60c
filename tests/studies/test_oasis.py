"""The photos and ratings of OASIS, made from downloads in miniature."""

import csv
import hashlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from studies.oasis import run
from studies.oasis.photos import OasisData


# Name, category, and the part that its key falls into, if the studies take it.
PHOTOS = [
    ("Acorns 1", "Object", "test"),
    ("Acorns 3", "Object", "train"),
    ("Fire 2", "Scenery", None),
    ("Baby 1", "Person", None),
    ("Crosswalk 1 ", "Scenery", "train"),
    ("Fire hydrant 1", "Object", "validation"),
    ("Beach 3", "Scenery", "train"),
]


@pytest.fixture
def download(tmp_path):
    """Catalogue with the line ends of an old Mac, as published, photos, and votes of 30 people in three formats."""
    (tmp_path / "images").mkdir()
    lines = [",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N"]
    for number, (name, category, _) in enumerate(PHOTOS, start=1):
        lines.append(f"I{number},{name},{category},Pixabay,4,1,100,2,1,100")
        Image.new("RGB", (50, 40), (number, 0, 0)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "OASIS.csv").write_bytes("\r".join(lines).encode())
    generator = np.random.default_rng(0)
    votes = generator.integers(1, 8, (30, len(PHOTOS))).astype(float)
    votes[generator.random(votes.shape) < 0.4] = np.nan
    people, items = np.indices(votes.shape)
    scipy.io.savemat(tmp_path / "corrData.mat", {"corrData": votes})
    long = {"item": items.ravel()[:, None] + 1, "beauty": votes.ravel()[:, None]}
    scipy.io.savemat(tmp_path / "OASISdata.mat", long)
    with open(tmp_path / "depthDat.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subjID", "item", "beauty"])
        for person, item, vote in zip(people.ravel(), items.ravel() + 1, votes.ravel(), strict=True):
            writer.writerow([person + 1, item, "NA" if np.isnan(vote) else int(vote)])
    return tmp_path, votes


@pytest.mark.parametrize("votes_file", ["corrData.mat", "OASISdata.mat", "depthDat.csv"])
def test_photos_and_ratings_are_made_from_the_downloads(download, tmp_path, votes_file, capsys):
    folder, votes = download
    flags = ["--photos", folder / "images", "--catalogue", folder / "OASIS.csv", "--votes", folder / votes_file]
    run.main([str(flag) for flag in [*flags, "--output-dir", tmp_path / "oasis"]])
    rows, held_out = (
        {row["image"]: row for row in csv.DictReader((tmp_path / "oasis" / name).open())}
        for name in ("ratings.csv", "ratings_test.csv")
    )
    kept = [(run.key_of(name) + ".jpg", place, part) for place, (name, _, part) in enumerate(PHOTOS) if part]
    assert {name: row["split"] for name, row in {**rows, **held_out}.items()} == {name: part for name, _, part in kept}
    assert {row["split"] for row in held_out.values()} == {"test"}
    assert sorted(path.name for path in (tmp_path / "oasis" / "images").iterdir()) == sorted(n for n, _, _ in kept)
    for name, place, _ in kept:
        row = {**rows, **held_out}[name]
        counts = [int((votes[:, place] == value).sum()) for value in range(1, 8)]
        assert [int(row[f"c{value}"]) for value in range(1, 8)] == counts
        assert int(row["n"]) == sum(counts)
        assert float(row["mean"]) == pytest.approx(np.nanmean(votes[:, place]), abs=1e-4)
    assert (rows["beach3.jpg"]["category"], rows["firehydrant1.jpg"]["theme"]) == ("scene", "firehydrant")
    data = OasisData.read(tmp_path / "oasis")
    assert len(data.photos()) == len(rows)
    printed = capsys.readouterr().err
    assert hashlib.sha256((tmp_path / "oasis" / "ratings.csv").read_bytes()).hexdigest() in printed
    assert "not the file of the published studies" in printed


def test_a_photo_that_is_missing_or_without_votes_is_named(download, tmp_path):
    folder, votes = download
    flags = ["--photos", folder / "images", "--catalogue", folder / "OASIS.csv", "--output-dir", tmp_path / "oasis"]
    scipy.io.savemat(folder / "none.mat", {"corrData": np.full_like(votes, np.nan)})
    with pytest.raises(SystemExit, match="acorns1 has no votes"):
        run.main([str(flag) for flag in [*flags, "--votes", folder / "none.mat"]])
    (folder / "images" / "Acorns 3.jpg").unlink()
    with pytest.raises(SystemExit, match=r"lacks 1 photos, such as acorns3\.jpg"):
        run.main([str(flag) for flag in [*flags, "--votes", folder / "corrData.mat"]])


def test_there_are_twenty_seven_unpleasant_themes():
    assert len(run.UNPLEASANT) == 27
