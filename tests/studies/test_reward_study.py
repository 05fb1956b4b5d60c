from pathlib import Path

import torch

from charm_hf import AestheticReward
from studies.results import read_rows
from studies.reward.run import RESULTS, climb, study


def test_climbing_stays_within_its_bound_and_raises_what_is_climbed(checkpoint, photos):
    reward = AestheticReward(checkpoint, device="cpu", differentiable=True)
    photo = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    attacked = climb(photo, reward, steps=3, bound=2 / 255)
    assert (attacked - photo).abs().max() <= 2 / 255 + 1e-6
    assert reward(attacked) > reward(photo)
    rows, shown = study([Path(photos[0])], checkpoint, steps=1, bound=4, edge=96)
    assert [row[0] for row in rows] == ["one view", "mean of 8 random views"]
    assert float(rows[0][1]) > 0
    assert len(shown) == 4
    assert len({picture.shape for picture in shown}) == 1


def test_the_page_says_what_was_measured_and_shows_it():
    page = Path(__file__).parents[2] / "docs" / "pipelines.md"
    text = page.read_text(encoding="utf-8")
    for row in read_rows(RESULTS):
        assert f"| {' | '.join(row.values())} |" in text
    assert "python -m studies.reward.run" in text
    assert (page.parent / "images" / "reward.jpg").stat().st_size > 10_000
