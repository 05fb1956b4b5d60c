"""The checkpoints that the authors of Charm published: file names, training data, what the paper reports.

Ranges, bins and sequence lengths of the datasets stand in `DATASET_PRESETS`; here is what cards and downloads need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


# Photographs of every kind, and a distribution of ratings instead of a mean alone.
DEFAULT_DATASET = "ava"

PAPER_NAME = "Behrad, Tuytelaars, Wagemans: Charm (CVPR 2025), arXiv 2504.02522"
PAPER_URL = "https://arxiv.org/abs/2504.02522"
PAPER_BASE_MODEL = "facebook/dinov2-small"
# Of the checkpoints and of the encoders in them.
RELEASED_LICENSE = "apache-2.0"
PARAMETERS = {"facebook/dinov2-small": 22_056_576, "facebook/dinov2-large": 304_368_640}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One published checkpoint and the dataset that it was trained on.

    Attributes:
        weights: name of the pickle with the model.
        title: name of the dataset.
        content: what is in it and who rated it.
        split: its parts, and what is not known of the ones that the authors used.
        bias: what its pictures and raters bring with them.
        numbers: PLCC, SRCC and ACC of Charm in the paper's table, which is for `PAPER_BASE_MODEL`.
        positions: name of the pickle with the position embeddings.
        base_model: the backbone of this checkpoint.
    """

    weights: str
    title: str
    content: str
    split: str
    bias: str
    numbers: Mapping[str, float]
    positions: str = "dino_small_pos.pt"
    base_model: str = PAPER_BASE_MODEL


RELEASED = {
    "aadb": ReleasedCheckpoint(
        weights="aadb_charm.pth",
        title="AADB",
        content="About 10,000 photographs, rated for their overall quality and for eleven attributes such as colour "
        "harmony, depth of field or the rule of thirds.",
        split="The set has an official split: 8,458 photographs to train, 500 to validate, 1,000 to test.",
        bias="Few raters saw each photograph, so a single label is noisy.",
        numbers={"plcc": 0.767, "srcc": 0.754, "acc": 0.767},
    ),
    "ava": ReleasedCheckpoint(
        weights="Ava_large_charm.pth",
        positions="dino_large.pt",
        base_model="facebook/dinov2-large",
        title="AVA",
        content="255,530 entries of the photo contests of dpchallenge.com, each with the histogram of the votes, 1 to "
        "10, that the site's members gave.",
        split="The official test list names 20,000 photographs, of which 19,930 can be read; the others are for "
        "training, and there is no official validation part. Numbers published elsewhere for AVA often come from "
        "other splits.",
        bias="Contest entries follow a theme, and members voted on how an entry met it; most means lie near the "
        "middle of the scale.",
        numbers={"plcc": 0.779, "srcc": 0.777, "acc": 0.826},
    ),
    "baid": ReleasedCheckpoint(
        weights="baid_charm.pth",
        title="BAID",
        content="About 60,000 works of art (paintings and other media, not photographs), with a score derived from "
        "the votes of an online community.",
        split="The set has an official split: 50,737 works to train, 3,200 to validate, 6,400 to test.",
        bias="It knows works of art; what it says of photographs has not been tested.",
        numbers={"plcc": 0.439, "srcc": 0.368, "acc": 0.763},
    ),
    "koniq10k": ReleasedCheckpoint(
        weights="koniq10k_charm.pth",
        title="KonIQ-10k",
        content="10,073 photographs as they are found online, rated for their technical quality.",
        split="One of the set's two files has an official split (7,058 / 1,000 / 2,015, scores 0-100), the other has "
        "none (scores 1-5). The released checkpoint is scaled to the second, so which photographs it was tested on is "
        "not known here.",
        bias="It judges technical quality (sharpness, noise, exposure) rather than beauty.",
        numbers={"plcc": 0.944, "srcc": 0.930, "acc": 0.954},
    ),
    "para": ReleasedCheckpoint(
        weights="para_charm.pth",
        title="PARA",
        content="About 31,000 photographs, each with the distribution of its raters' scores from 1 to 5 in steps of "
        "one half.",
        split="The set has an official split of about 28,220 photographs to train and 3,000 to test, and no official "
        "validation part.",
        bias="The score is the average person's; the set was made to study how people differ, which this model "
        "ignores.",
        numbers={"plcc": 0.938, "srcc": 0.905, "acc": 0.892},
    ),
    "spaq": ReleasedCheckpoint(
        weights="spaq_charm.pth",
        title="SPAQ",
        content="11,125 photographs taken with smartphones, rated from 0 to 100 for their quality.",
        split="The set has no official split, and which photographs the authors tested on is not known here.",
        bias="It judges the quality of smartphone photographs rather than beauty.",
        numbers={"plcc": 0.919, "srcc": 0.915, "acc": 0.917},
    ),
    "tad66k": ReleasedCheckpoint(
        weights="tad66k_charm.pth",
        title="TAD66K",
        content="About 66,000 photographs of many themes, rated with criteria of their theme.",
        split="The set has an official split of 52,248 photographs to train and 14,079 to test, and no official "
        "validation part.",
        bias="Ratings depend on a photograph's theme, which the model is not told; it agrees with them only loosely.",
        numbers={"plcc": 0.488, "srcc": 0.458, "acc": 0.794},
    ),
}
