import numpy as np
import pytest
import torch
from PIL import Image

from studies.charm_tiny.photo_statistics import (
    PhotoStatistics,
    StatisticsHead,
    VisualWords,
    colour_histogram,
    colours_and_edges,
    edge_energies,
    opponent_channels,
    photo_to_pixels,
)


@pytest.fixture(scope="module")
def photos():
    skimage = pytest.importorskip("skimage.data", reason="the photos come from the scikit-image wheel (test extra)")
    return [Image.fromarray(photo) for photo in (skimage.astronaut(), skimage.coffee(), skimage.chelsea())]


@pytest.fixture(scope="module")
def statistics(photos):
    return PhotoStatistics(photos, num_words=20)


def test_the_targets_are_standardized_over_the_photos_they_were_fitted_on(photos, statistics):
    targets = torch.stack([statistics(photo) for photo in photos])
    assert targets.shape == (3, len(statistics)) == (3, 188 + 20)
    assert torch.allclose(targets.mean(0), torch.zeros(len(statistics)), atol=1e-4)
    assert targets.std(0).max() < 1.01


def test_the_targets_of_a_photo_depend_on_it_and_the_fit_only(photos, statistics):
    assert torch.equal(statistics(photos[0]), statistics(photos[0].copy()))
    again = PhotoStatistics(photos, num_words=20)
    assert torch.equal(again(photos[1]), statistics(photos[1]))


def test_counts_of_colour_and_energy_do_not_change_when_a_photo_is_mirrored(photos):
    pixels = photo_to_pixels(photos[1])
    channels, mirrored = opponent_channels(pixels), opponent_channels(pixels.flip(2))
    assert torch.allclose(colour_histogram(channels), colour_histogram(mirrored))


def test_the_histogram_tells_red_from_blue_and_holds_every_pixel():
    red = torch.zeros(3, 10, 10)
    red[0] = 1
    histograms = [colour_histogram(opponent_channels(pixels)) for pixels in (red, red.flip(0))]
    assert [histogram.square().sum().item() for histogram in histograms] == pytest.approx([1, 1])
    assert histograms[0].argmax() != histograms[1].argmax()


def test_edge_energies_tell_vertical_from_horizontal_stripes():
    stripes = (torch.arange(48) // 4 % 2).float().expand(48, 48)
    vertical, horizontal = edge_energies(stripes), edge_energies(stripes.T)
    assert vertical.shape == (32,)
    assert (vertical - horizontal).abs().max() > 1


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (8, 8), (101, 37)])
def test_thin_and_tiny_photos_have_finite_statistics(size, statistics):
    target = statistics(Image.new("L", size, 128))
    assert target.shape == (len(statistics),)
    assert torch.isfinite(target).all()


def test_visual_words_recognise_the_patches_they_were_made_from():
    generator = torch.Generator().manual_seed(0)
    flat, noisy = 0.02 * torch.rand(3, 60, 60, generator=generator) + 0.5, torch.rand(3, 60, 60, generator=generator)
    words = VisualWords.fit([flat, noisy], num_words=8)
    bags = torch.stack([words(flat), words(noisy)])
    assert bags.shape == (2, 8)
    assert not torch.allclose(bags[0], bags[1], atol=0.1)


def test_too_few_photos_for_the_words_is_an_error():
    with pytest.raises(ValueError, match="give more photos"):
        VisualWords.fit([torch.rand(3, 20, 20)], num_words=100)


def test_the_head_learns_the_statistics_of_what_it_is_given(photos, statistics):
    torch.manual_seed(0)
    head = StatisticsHead(16, len(statistics))
    pooled, targets = torch.randn(3, 16), torch.stack([statistics(photo) for photo in photos])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    before = head.loss(pooled, targets).item()
    for _ in range(100):
        optimizer.zero_grad()
        head.loss(pooled, targets).backward()
        optimizer.step()
    assert head.loss(pooled, targets).item() < 0.05 * before


def test_a_black_photo_has_the_statistics_of_black():
    values = colours_and_edges(torch.zeros(3, 20, 30))
    assert np.isfinite(values.numpy()).all()
    assert values[:4].tolist() == [0, 0, 0, 0]
