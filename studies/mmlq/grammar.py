"""Comments on photos from a small grammar: some adjectives depend on the photo's rating, the others on nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


# From the worst to the best; which level is said follows the rating, with noise.
LEVELS = (
    ("terrible", "ugly", "awful"),
    ("dull", "flat", "weak"),
    ("plain", "ordinary", "average"),
    ("nice", "pleasant", "good"),
    ("stunning", "gorgeous", "superb"),
)
# Said of any photo alike.
NEUTRAL = ("red", "distant", "wooden", "foggy", "wintry", "empty", "crowded", "quiet", "old", "wide", "round", "early")
NOUNS = ("light", "composition", "focus", "mood", "scene", "subject", "background", "sky", "contrast", "tone")
FRAMES = (
    "the {noun} is {adjective}",
    "{adjective} {noun}",
    "i find the {noun} {adjective}",
    "such a {adjective} {noun} here",
)
WORDS = tuple(
    sorted(
        {
            *NOUNS,
            *NEUTRAL,
            *(word for level in LEVELS for word in level),
            "the",
            "is",
            "i",
            "find",
            "such",
            "a",
            "here",
        }
    )
)
_LEVEL_OF_WORD = {word: number for number, level in enumerate(LEVELS) for word in level}


@dataclass(frozen=True)
class Grammar:
    """How photos are commented on.

    Attributes:
        max_comments: a photo has 0 to so many comments, each number equally often.
        informative: share of the adjectives that depend on the rating.
        noise: standard deviation, in levels, between what a rating deserves and what is said.
    """

    max_comments: int = 6
    informative: float = 0.5
    noise: float = 1.0

    def comments(self, ratings: np.ndarray, generator: np.random.Generator) -> list[list[str]]:
        """Comments on each photo; `ratings` (N,) lie in [0, 1]."""
        return [
            [self._comment(rating, generator) for _ in range(generator.integers(0, self.max_comments + 1))]
            for rating in ratings
        ]

    def _comment(self, rating: float, generator: np.random.Generator) -> str:
        words = NEUTRAL
        if generator.random() < self.informative:
            deserved = rating * (len(LEVELS) - 1) + generator.normal(0, self.noise)
            words = LEVELS[int(np.clip(np.round(deserved), 0, len(LEVELS) - 1))]
        noun, adjective, frame = (str(generator.choice(choices)) for choices in (NOUNS, words, FRAMES))
        return frame.format(noun=noun, adjective=adjective)


def is_informative(word: str) -> bool:
    """Whether a word depends on the rating."""
    return word in _LEVEL_OF_WORD


def known_answer(comments: list[list[str]]) -> np.ndarray:
    """What somebody who knows the grammar would say of each photo, (N,): the mean level, pulled to the middle.

    A photo without an adjective that says something gets the middle.
    """
    middle = (len(LEVELS) - 1) / 2
    answers = []
    for said in comments:
        levels = [_LEVEL_OF_WORD[word] for comment in said for word in comment.split() if is_informative(word)]
        answers.append((sum(levels) + middle) / (len(levels) + 1))
    return np.array(answers)
