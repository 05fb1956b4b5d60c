"""The study of how many ratings a personal head takes (studies/taste)."""

import numpy as np

from studies.taste.run import COUNTS, HEADER, principal, rate, study


def make_photos(count=240):
    """Votes that follow one feature, looks that others follow, features that show both, with noise."""
    random = np.random.default_rng(0)
    looks = principal(random.normal(size=(count, 12)) @ random.normal(size=(12, 30)))
    felt = random.normal(size=count)
    votes = np.exp(-((felt[:, None] + 4 - np.arange(1, 8)) ** 2)) * 100
    features = np.column_stack([felt, looks, random.normal(size=(count, 20))]) @ random.normal(size=(33, 33))
    return features + random.normal(0, 0.05, features.shape), votes, looks


def test_stars_are_fifths_and_follow_votes_and_own_taste():
    _, votes, looks = make_photos()
    for kind, expected in (("like others", 0.6), ("own taste", 0.5)):
        stars = rate(kind, votes, looks, np.random.default_rng(1))
        assert np.bincount(stars.astype(int))[1:].tolist() == [48] * 5
        assert np.corrcoef(stars, votes @ np.arange(7) / votes.sum(1))[0, 1] > expected


def test_who_has_a_taste_of_their_own_gains_by_rating_and_who_has_none_does_not():
    rows = [dict(zip(HEADER, row, strict=True)) for row in study(*make_photos(), persons=4)]
    assert [int(row["photos rated"]) for row in rows] == [*COUNTS, *COUNTS]
    like_others, own = rows[: len(COUNTS)], rows[len(COUNTS) :]
    base, head, end = "SRCC of the base", "of the new head", "SRCC in the end"
    assert float(own[-1][head]) > max(float(own[-1][base]), float(own[0][head])) + 0.05
    assert float(own[-1][base]) < float(own[-1][end]) < float(own[-1][head])  # written for some of them
    assert abs(float(like_others[-1][end]) - float(like_others[-1][base])) < 0.05
