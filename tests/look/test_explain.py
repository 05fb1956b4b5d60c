import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from support import BACKBONES, photo_path, tiny_model, tiny_processor
from transformers import BertConfig, BertModel

from charm_hf import ImageAestheticsPipeline
from charm_hf.look.contributions import AGAINST, comparison_tokens, gradient_contributions, occlusion_contributions
from charm_hf.look.explain import explain, see
from charm_hf.look.token_layout import TokenLayout


SELECTIONS = ("frequency", "gradient", "entropy", "saliency", "spectral_residual", "random", "original")


class LinearScorer(torch.nn.Module):
    """Scores by a weighted sum of the pixels, so that each token's part is known."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, pixel_values, **inputs):
        return {"scores": (pixel_values * self.weights).sum((1, 2))}


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def pad_or_crop(pixels, height, width):
    pixels = pixels[:height, :width]
    return np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)))


@pytest.fixture(scope="module")
def model():
    return tiny_model("dinov2")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_native_tokens_are_drawn_back_as_the_padded_photo_itself(backbone):
    model = tiny_model(backbone)
    processor = tiny_processor(model, max_num_patches=2000)

    explanation = explain(photo_path("chelsea"), model, processor, steps=1)

    size = model.config.patch_size
    height, width = -(-300 // size) * size, -(-451 // size) * size
    assert np.array_equal(explanation.received, pad_or_crop(pixels_of(photo_path("chelsea")), height, width))
    assert explanation.area == (0, 0, width, height)


@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("selection", SELECTIONS[:-1])
def test_kept_regions_are_the_photos_own_pixels_and_the_rest_a_coarser_likeness(selection, num_scales):
    model = tiny_model("dinov2", num_scales=num_scales)
    options = {"patch_selection": selection, "overflow": "keep"}
    if selection == "saliency":
        options["saliency_maps"] = np.pad(np.ones((100, 100)), ((50, 362), (80, 332)))

    explanation = explain(
        photo_path("astronaut"), model, tiny_processor(model, max_num_patches=1024), steps=1, **options
    )

    received = np.asarray(explanation.received).astype(int)
    photo = pad_or_crop(pixels_of(photo_path("astronaut")), *received.shape[:2]).astype(int)
    kept = explanation.kept(num_scales - 1).repeat(14, 0).repeat(14, 1)
    assert 0 < kept.mean() < 1
    assert np.array_equal(received[kept], photo[kept])
    assert 1 < np.abs(received - photo)[~kept].mean() < 20
    assert sum(explanation.tokens_per_scale) == len(explanation.contributions)
    assert all(explanation.tokens_per_scale)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_selection_is_explained_on_every_backbone(backbone, tmp_path):
    model = tiny_model(backbone)
    processor = tiny_processor(model, max_num_patches=150)

    for selection in SELECTIONS:
        maps = {"saliency_maps": np.ones((300, 451))} if selection == "saliency" else {}
        explanation = explain(photo_path("chelsea"), model, processor, steps=1, patch_selection=selection, **maps)

        assert np.isfinite(explanation.contributions).all()
        assert np.abs(explanation.contributions).max() > 0
    explanation.save(tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").format == "PNG"


def test_the_numbers_are_those_of_the_pipeline(model):
    processor = tiny_processor(model, max_num_patches=512)
    pipeline = ImageAestheticsPipeline(model=model, image_processor=processor)
    photo = photo_path("coffee")

    explanation = explain(photo, model, processor, steps=1, num_views=4)

    assert "spread" not in (expected := pipeline(photo))
    assert {name: explanation.result[name] for name in expected} == expected
    assert explanation.result["spread"] == pipeline(photo, num_views=4)["spread"] > 0


def test_dropped_tokens_leave_grey_holes(model):
    processor = tiny_processor(model, max_num_patches=300, num_scales=2, overflow="drop")

    explanation = explain(photo_path("coffee"), model, processor, steps=1)

    holes = (np.asarray(explanation.received) == 128).all(-1).mean()
    assert sum(explanation.tokens_per_scale) == 300
    assert holes > 0.1


def test_gradient_times_input_gives_each_token_its_part_of_a_linear_score():
    generator = torch.Generator().manual_seed(0)
    weights, pixels, other = torch.randn(3, 1, 7, 12, generator=generator)

    for steps in (1, 5):
        parts = gradient_contributions(LinearScorer(weights), {"pixel_values": pixels}, other[0], steps)
        assert parts == pytest.approx((weights * (pixels - other))[0].sum(-1).numpy(), abs=1e-5)


@pytest.mark.parametrize("options", [{"dataset": "ava"}, {"dataset": "aadb", "num_attributes": 11}])
@pytest.mark.parametrize("against", AGAINST)
def test_the_parts_sum_to_what_sets_the_photo_apart_from_the_one_it_is_compared_with(options, against):
    model = tiny_model("dinov2", **options)
    processor = tiny_processor(model, max_num_patches=40)

    for steps in (1, 7):
        explanation = explain(photo_path("coffee"), model, processor, against=against, steps=steps)

        difference = explanation.score - explanation.score_against
        assert explanation.contributions.sum() == pytest.approx(difference, abs=1e-5)
        assert explanation.heat.sum() == pytest.approx(difference, abs=1e-5)


def test_the_more_steps_the_closer_the_parts_come_to_their_limit(model):
    processor = tiny_processor(model, max_num_patches=40)

    one, ten, limit = (
        explain(photo_path("coffee"), model, processor, steps=steps).contributions for steps in (1, 10, 200)
    )

    assert np.abs(ten - limit).max() < 0.1 * np.abs(limit).max()
    assert np.abs(ten - limit).max() < np.abs(one - limit).max() / 5


def test_a_photo_is_compared_with_its_own_colours_without_detail():
    layout = TokenLayout(
        np.array([0, 1, 1, 1, 1]), np.array([[0, 1], [0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[1, 2], [2, 4]])
    )
    colours = torch.tensor([[4.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 2]])
    pixels = colours.repeat_interleave(4, dim=1) + torch.tensor([-1.0, 1, -1, 1]).repeat(3)

    blurred, mean, empty = (
        comparison_tokens(pixels, layout, against).unflatten(1, (3, 4)) for against in ("blurred", "mean", "empty")
    )

    assert mean.unique(dim=0).shape == (1, 3, 4)  # the coarse token covers half of the photo
    assert mean[0, :, 0].tolist() == pytest.approx([2, 0.5, 0.25])
    assert blurred.std(2).max() < 1e-6
    assert 2 < blurred[0, 0, 0] < 4
    assert 0 < blurred[4, 0, 0] < 2
    assert blurred[2, 0, 0] > blurred[1, 0, 0]  # nearer to the red half
    assert not empty.any()


def test_hiding_a_window_takes_its_part_from_a_linear_score():
    positions = np.argwhere(np.ones((2, 20), dtype=bool))  # windows of 2 × 2 tokens
    layout = TokenLayout(np.zeros(40, dtype=int), positions, np.array([[2, 20]]))
    generator = torch.Generator().manual_seed(0)
    weights, pixels, other = torch.randn(3, 1, 40, 12, generator=generator)

    parts = occlusion_contributions(LinearScorer(weights), {"pixel_values": pixels}, other[0], layout)

    whole = (weights * (pixels - other))[0].sum(-1).numpy().reshape(2, 10, 2).sum((0, 2)) / 4
    assert parts.reshape(2, 20) == pytest.approx(np.broadcast_to(whole.repeat(2), (2, 20)), abs=1e-5)


def test_occlusion_finds_the_places_that_gradients_find(model):
    options = {"image": photo_path("coffee"), "model": model, "processor": tiny_processor(model, max_num_patches=512)}

    hidden, moved = explain(**options, method="occlusion"), explain(**options, steps=16)

    assert (hidden.method, moved.method) == ("occlusion", "gradients")
    assert np.corrcoef(gaussian_filter(hidden.heat, 3).ravel(), gaussian_filter(moved.heat, 3).ravel())[0, 1] > 0.3
    assert hidden.to_image().tobytes() != moved.to_image().tobytes()


def test_the_map_is_the_models_own_other_weights_give_another_one():
    maps = []
    for seed in (0, 0, 1):
        model = tiny_model("dinov2", seed=seed)
        explanation = explain(photo_path("coffee"), model, tiny_processor(model, max_num_patches=512))
        maps.append(explanation.heat.ravel())

    assert np.array_equal(maps[0], maps[1])
    assert abs(spearmanr(maps[0], maps[2]).statistic) < 0.5


def test_explaining_leaves_no_gradient_and_no_training_mode_behind(model):
    model.train()
    with torch.no_grad():
        first = explain(photo_path("chelsea"), model, tiny_processor(model), steps=2)
        second = explain(photo_path("chelsea"), model, tiny_processor(model), steps=2)

    assert np.array_equal(first.contributions, second.contributions)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_heat_of_one_token_lies_where_the_token_lies():
    shapes = np.array([[4, 6], [6, 9], [8, 12]])
    for scale, position, centre in ((0, (1, 4), (2.5, 8.5)), (1, (3, 2), (4.25, 2.75)), (2, (7, 0), (7, 0))):
        heat = TokenLayout(np.array([scale]), np.array([position]), shapes).spread(np.array([2.0]))

        rows, columns = np.indices(heat.shape)
        assert heat.shape == (8, 12)
        assert heat.sum() == pytest.approx(2.0)
        assert (heat * rows).sum() / 2 == pytest.approx(centre[0], abs=1e-3)
        assert (heat * columns).sum() / 2 == pytest.approx(centre[1], abs=1e-3)


def test_smoothing_keeps_the_sum_and_the_place_of_the_heat():
    shapes = np.array([[4, 6], [8, 12]])
    layout = TokenLayout(np.array([0, 1]), np.array([[0, 0], [6, 9]]), shapes)

    heat = layout.spread(np.array([3.0, -1.0]), smoothing=1.0)

    assert heat.sum() == pytest.approx(2.0)
    assert np.unravel_index(heat.argmax(), heat.shape) in {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert np.unravel_index(heat.argmin(), heat.shape) == (6, 9)


def test_tokens_of_three_scales_meet_without_gap_or_overlap():
    # 2 × 2 regions of 8 pixels: one as 1, two as 3 × 3 half-way, one as 4 × 4 full tokens of 2 pixels.
    shapes = np.array([[4, 4], [6, 6], [8, 8]])
    regions = {0: [(0, 0)], 1: [(0, 1), (1, 0)], 2: [(1, 1)]}
    scale_ids, positions = [], []
    for scale, places in regions.items():
        side = (2, 3, 4)[scale]
        for row, column in places:
            for cell in np.ndindex(side, side):
                scale_ids.append(scale)
                positions.append((row * side + cell[0], column * side + cell[1]))
    scale_ids, positions = np.array(scale_ids), np.array(positions)
    pixels = np.zeros((len(scale_ids), 2, 2, 3), dtype=np.uint8) + (50 * (scale_ids + 1))[:, None, None, None].astype(
        np.uint8
    )

    layout = TokenLayout(scale_ids, positions, shapes)

    canvas = layout.draw(pixels)[..., 0]

    assert np.array_equal(canvas, np.array([[50, 100], [100, 150]]).repeat(8, 0).repeat(8, 1))
    assert layout.kept(2).sum() == 16


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((120, 100), {"max_num_patches": 1000}, (0, 0, 126, 112)),  # native: padded to whole patches
        ((590, 395), {"max_num_patches": 900}, (0, 0, 588, 392)),  # cropped to whole regions
        ((583, 390), {"max_num_patches": 900}, (0, 0, 588, 392)),  # padded to whole regions
        ((2000, 1000), {"do_resize": True, "size": {"longest_edge": 500}, "max_num_patches": 900}, (0, 0, 2016, 1008)),
        ((1024, 512), {"patch_selection": "original"}, (288, 32, 736, 480)),
    ],
)
def test_the_covered_area_is_in_the_photos_own_pixels(model, size, options, expected):
    area = tiny_processor(model).covered_area(size[1], size[0], **options)

    assert area == pytest.approx(expected)


@pytest.mark.parametrize("size", [(1000, 1500), (3000, 4000), (700, 400)])
def test_a_background_that_was_shrunk_is_drawn_at_its_place(model, size):
    across, down = np.meshgrid(np.linspace(0, 255, size[1]), np.linspace(0, 255, size[0]))
    photo = np.stack([across, down, (across + down) / 2], -1).astype(np.uint8)

    seen = see(photo, tiny_processor(model, max_num_patches=300, patch_selection="random"))

    assert seen.kept(0).all()
    assert seen.kept(1).any()
    left, top, right, bottom = (int(edge) for edge in seen.area)
    shown = np.asarray(seen.received).astype(int)[: size[0] - top, : size[1] - left]
    difference = shown - photo[top:bottom, left:right]
    for corner in (np.s_[:200, :200], np.s_[-200:, -200:], np.s_[-200:, :200]):
        assert np.abs(difference[corner].mean(axis=(0, 1))).max() < 1.5  # a displacement by 1 % would be 2.5


def test_a_turned_photo_is_explained_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo_path("chelsea")).save(tmp_path / "turned.jpg", exif=exif)

    explanation = explain(tmp_path / "turned.jpg", model, tiny_processor(model), steps=1)

    assert explanation.photo.size == (300, 451)
    assert explanation.received.height > explanation.received.width


def test_path_bytes_array_and_tensor_give_the_same_explanation(model):
    processor = tiny_processor(model, max_num_patches=512)
    path = photo_path("coffee")
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "PNG")
    array = pixels_of(path)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255

    forms = [explain(form, model, processor, steps=1) for form in (path, buffer.getvalue(), array, tensor)]

    for other in forms[1:]:
        assert np.abs(np.asarray(other.received).astype(int) - np.asarray(forms[0].received)).max() <= 1
        assert other.score == pytest.approx(forms[0].score, abs=1e-4)


def test_raw_pixels_are_drawn_back_when_nothing_was_normalized(model):
    for options in ({"do_normalize": False}, {"do_normalize": False, "do_rescale": False}):
        explanation = explain(
            photo_path("chelsea"), model, tiny_processor(model, max_num_patches=2000), steps=1, **options
        )
        assert np.array_equal(explanation.received, pad_or_crop(pixels_of(photo_path("chelsea")), 308, 462))


@pytest.mark.parametrize("size", [(30, 900), (900, 30), (16, 16), (300, 299)])
def test_a_picture_comes_of_any_shape(model, size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)

    explain(noise, model, tiny_processor(model), steps=1).save(tmp_path / "out.png")

    picture = Image.open(tmp_path / "out.png")
    assert picture.width >= 700
    assert picture.height >= 350


def test_the_panels_show_kept_frames_heat_and_bars(model):
    explanation = explain(photo_path("coffee"), model, tiny_processor(model, max_num_patches=512), steps=2)

    colours = {colour for _, colour in explanation.to_image().getcolors(maxcolors=1 << 24)}

    assert (255, 190, 30) in colours  # frames
    assert (40, 120, 255) in colours  # bars
    assert any(red > 200 and blue < 60 for red, _, blue in colours)


def test_tokens_can_be_seen_without_a_model(model, tmp_path):
    processor = tiny_processor(model, max_num_patches=512)

    seen = see(photo_path("coffee"), processor)
    seen.save(tmp_path / "seen.png")

    explanation = explain(photo_path("coffee"), model, processor, steps=1)
    assert np.array_equal(seen.received, explanation.received)
    two, four = Image.open(tmp_path / "seen.png"), explanation.to_image()
    assert (two.width, two.height < 0.6 * four.height) == (four.width, True)
    drawn = [{colour for _, colour in picture.getcolors(maxcolors=1 << 24)} for picture in (two, four)]
    assert [(255, 190, 30) in colours for colours in drawn] == [True, True]  # frames
    assert [(40, 120, 255) in colours for colours in drawn] == [False, True]  # bars of the score


def test_what_cannot_be_explained_is_refused_by_name(model, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a photo")

    with pytest.raises(ValueError, match=r"notes\.jpg"):
        explain(tmp_path / "notes.jpg", model, tiny_processor(model))
    with pytest.raises(FileNotFoundError):
        explain(tmp_path / "missing.jpg", model, tiny_processor(model))
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        explain(photo_path("coffee"), model, tiny_processor(model), steps=0)
    with pytest.raises(ValueError, match="`method` must be one of gradients, occlusion, got 'magic'"):
        explain(photo_path("coffee"), model, tiny_processor(model), method="magic")
    with pytest.raises(ValueError, match="`against` must be one of blurred, mean, empty, got 'me'"):
        explain(photo_path("coffee"), model, tiny_processor(model), against="me")
    with pytest.raises(ValueError, match="Charm tokens"):
        explain(photo_path("coffee"), model, object())
    with pytest.raises(ValueError, match="Expected a Charm model, got BertModel"):
        explain(photo_path("coffee"), BertModel(BertConfig(num_hidden_layers=1)), tiny_processor(model))
