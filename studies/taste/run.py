"""How many ratings `charm-hf personalize` takes: agreement with a person, by the number of photos that they rated.

    OMP_NUM_THREADS=1 python -m studies.taste.run PATH_TO_OASIS

The OASIS photos are halved, anew for each of `--persons` simulated persons. The votes on one half give the base's
head, a ridge on the frozen features of the checkpoint, whose encoder saw no vote. Of the other half 60 photos are held
out; the person rates some of the rest with 1 to 5 stars, in fifths. Two kinds of persons:

- *like others*: a rating is one of the votes that the photo really got, drawn at random. Whoever rates so has no taste
  of their own: all that can be learnt is the average taste, from noisy votes.
- *own taste*: half of the variance is the mean vote, half a random direction among colours and edges of the photos
  (`studies/charm_tiny/photo_statistics.py`, standardized, 12 principal components), and noise of a standard deviation
  of .5 on top.

Agreement is the SRCC with the stars that the person gives to the held-out photos: of the base, of the head that was
learnt, and of the one of both that the command leaves them with, which writes a head only if it agrees better in five
folds of the rated photos.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata, spearmanr

from charm_hf.scoring import load_for_scoring
from charm_hf.scoring.engine import Scorer, ScoringOptions
from charm_hf.scoring.items import Item
from charm_hf.scoring.personal import fit_head, held_out_scores
from studies.charm_tiny.photo_statistics import colours_and_edges, photo_to_pixels
from studies.oasis.photos import OasisData, read_ratings
from studies.results import markdown, write_rows


RESULTS = Path(__file__).parent / "results.csv"
KINDS = ("like others", "own taste")
COUNTS = (10, 20, 30, 50, 75, 100)
HELD_OUT, COMPONENTS, NOISE = 60, 12, 0.5
HEADER = ("person", "photos rated", "SRCC of the base", "of the new head", "head written for", "SRCC in the end")


def standardized(values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 in each column."""
    return (values - values.mean(0)) / (values.std(0) + 1e-9)


def principal(statistics: np.ndarray) -> np.ndarray:
    """(N, 12) standardized principal components of (N, D) statistics."""
    left, values, _ = np.linalg.svd(standardized(statistics), full_matrices=False)
    return standardized(left[:, :COMPONENTS] * values[:COMPONENTS])


def rate(kind: str, votes: np.ndarray, looks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Stars, 1 to 5, that a new person gives to photos with votes (N, K) and looks (N, C)."""
    shares = votes / votes.sum(1, keepdims=True)
    if kind == "like others":
        felt = np.array([random.choice(len(row), p=row) for row in shares], dtype=float)
        felt += random.uniform(0, 0.1, len(felt))  # ties are broken at random
    else:
        mean = standardized(shares @ np.arange(shares.shape[1]))
        own = standardized(looks @ random.normal(size=looks.shape[1]))
        felt = np.sqrt(0.5) * (mean + own) + random.normal(0, NOISE, len(own))
    return np.ceil(5 * rankdata(felt) / len(felt))


def logit(stars: np.ndarray) -> np.ndarray:
    """What a sigmoid head has to say for 1 to 5 stars."""
    share = ((stars - 1) / 4).clip(0.02, 0.98)
    return np.log(share / (1 - share))


def follow(
    features: np.ndarray, mean_votes: np.ndarray, stars: np.ndarray, random: np.random.Generator
) -> list[tuple[float, float, bool, float]]:
    """After each number of ratings: SRCC of base and new head on held-out photos, whether it is written, and of which
    of both one is left with.
    """
    order = random.permutation(len(features))
    base, held_out, rated = np.split(order, [len(order) // 2, len(order) // 2 + HELD_OUT])
    opinion = fit_head(features[base], mean_votes[base], np.zeros(features.shape[1]))[0]

    def agreement(scores: np.ndarray, photos: np.ndarray) -> float:
        return float(spearmanr(scores, stars[photos])[0])

    before, found = agreement(features[held_out] @ opinion, held_out), []
    for some in (rated[:count] for count in COUNTS):
        learnt = features[some], logit(stars[some]), opinion
        after = agreement(features[held_out] @ fit_head(*learnt)[0], held_out)
        is_written = agreement(held_out_scores(*learnt), some) > agreement(features[some] @ opinion, some)
        found.append((before, after, is_written, after if is_written else before))
    return found


def study(features: np.ndarray, votes: np.ndarray, looks: np.ndarray, persons: int) -> list[list[str]]:
    """A row for each kind of person and number of ratings: means over the persons."""
    mean_votes = standardized(votes @ np.arange(votes.shape[1]) / votes.sum(1))
    rows = []
    for kind in KINDS:
        curves = []
        for person in range(persons):
            random = np.random.default_rng(person)
            curves.append(follow(features, mean_votes, rate(kind, votes, looks, random), random))
        for count, (before, after, written, end) in zip(COUNTS, np.array(curves).mean(0), strict=True):
            rows.append([kind, str(count), f"{before:.3f}", f"{after:.3f}", f"{written:.0%}", f"{end:.3f}"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and ratings.csv")
    parser.add_argument("--model", help="the embedded demonstration checkpoint if not given")
    parser.add_argument("--persons", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    data = OasisData.read(args.data)
    votes = np.array([[float(row[f"c{vote}"]) for vote in range(1, 8)] for row in read_ratings(args.data)])
    model, processor = load_for_scoring(args.model, device="cpu")
    scorer = Scorer(model, processor, ScoringOptions(embeddings=True, num_workers=0))
    features = np.array([row.embedding for row in scorer.score(Item.from_file(str(path)) for path in data.paths)])
    looks = torch.stack([colours_and_edges(photo_to_pixels(Image.open(path))) for path in data.paths])
    rows = study(features.astype(float), votes, principal(looks.double().numpy()), args.persons)
    write_rows(args.output, HEADER, rows)
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
