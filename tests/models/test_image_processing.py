"""What a user gets from `CharmImageProcessor`: the published tokens, one result a photo, clear errors."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import FIXTURES, photo_path, tiny_model

from charm_hf import CharmImageProcessor
from charm_hf.models.presets_charm import DATASET_PRESETS
from charm_hf.models.token_cutting_charm import resize_matrix


CASES = json.loads((FIXTURES / "tokens" / "cases.json").read_text())
SELECTIONS = ("frequency", "gradient", "entropy", "random", "saliency", "spectral_residual", "released_frequency")


def released_processor(case: dict, **overrides: object) -> CharmImageProcessor:
    selection = case["patch_selection"].replace("frequency", "released_frequency")
    return CharmImageProcessor.for_dataset(
        case["training_dataset"],
        **{"patch_selection": selection, "overflow": "keep", "do_normalize": False, **overrides},
    )


def published_tokens(case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (L, 588) and scale ids (L,) that the published package made."""
    data = load_file(FIXTURES / "tokens" / f"{case['id']}.safetensors")
    full = data["full_resolution"].float() / 255
    return torch.cat([data["shrunk"], full]).flatten(1), data["scale_ids"].long()


def random_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_tokens_equal_those_of_the_published_package(case: dict) -> None:
    tokens, scale_ids = published_tokens(case)
    inputs = released_processor(case)(photo_path(case["image"]))
    assert torch.equal(inputs["scale_ids"][0], scale_ids)
    assert (inputs["pixel_values"][0] - tokens).abs().max() <= 1e-5
    assert inputs["pixel_attention_mask"].all()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["patch_selection"] == "frequency"], ids=lambda case: case["id"]
)
def test_new_models_choose_the_published_regions_of_these_photos_too(case: dict) -> None:
    tokens, scale_ids = published_tokens(case)
    inputs = released_processor(case, patch_selection="frequency")(photo_path(case["image"]))
    assert torch.equal(inputs["scale_ids"][0], scale_ids)
    assert (inputs["pixel_values"][0] - tokens).abs().max() <= 1e-5
    assert inputs["pixel_attention_mask"].all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_float_tensor_gives_the_published_tokens_and_a_gradient(case: dict) -> None:
    pixels = torch.from_numpy(np.array(Image.open(photo_path(case["image"])).convert("RGB"))).permute(2, 0, 1) / 255
    pixels.requires_grad_(True)
    inputs = released_processor(case)(pixels)
    assert (inputs["pixel_values"][0].detach() - published_tokens(case)[0]).abs().max() <= 1e-5
    inputs["pixel_values"].sum().backward()
    # Every pixel inside the cropped area reaches a token.
    rows, columns = inputs["spatial_shapes"][0].amax(0) * 14
    assert (pixels.grad[:, :rows, :columns].abs().sum(0) > 0).float().mean() > 0.99


def test_a_gradient_flows_where_photos_were_read_in_inference_mode_before() -> None:
    processor = CharmImageProcessor(max_num_patches=20)
    pixels = torch.rand(3, 90, 120, requires_grad=True)
    resize_matrix.cache_clear()
    with torch.inference_mode():
        processor(pixels)
    processor(pixels)["pixel_values"].sum().backward()
    assert pixels.grad.any()


@pytest.mark.parametrize("name", DATASET_PRESETS)
def test_presets_carry_the_published_length_and_longest_edge(name: str) -> None:
    processor = CharmImageProcessor.for_dataset(name)
    assert processor.max_num_patches == {"ava": 512, "tad66k": 768}.get(name, 1024)
    assert processor.do_resize == (name in ("para", "spaq"))
    assert processor.size == ({"longest_edge": 1024} if processor.do_resize else None)
    assert CharmImageProcessor.for_dataset(name, max_num_patches=99).max_num_patches == 99
    with pytest.raises(ValueError, match="aadb, ava"):
        CharmImageProcessor.for_dataset("imagenet")


@pytest.mark.parametrize(
    ("model_type", "mean"), [("vit", [0.5] * 3), ("dinov2", [0.485, 0.456, 0.406]), ("dinov2_with_registers", None)]
)
def test_a_processor_for_a_model_normalizes_as_its_encoder_was_pretrained(model_type: str, mean: list | None) -> None:
    model = tiny_model(model_type)
    processor = CharmImageProcessor.for_model(model, "ava")
    assert (processor.patch_size, processor.num_scales) == (model.config.patch_size, model.config.num_scales)
    assert processor.max_num_patches == 512
    assert processor.image_mean == pytest.approx(mean or [0.485, 0.456, 0.406])
    assert CharmImageProcessor.for_model(model.config, image_mean=[0.1] * 3).image_mean == [0.1] * 3


def test_outputs_have_the_documented_shapes_and_types() -> None:
    processor = CharmImageProcessor(max_num_patches=300)
    inputs = processor([photo_path("coffee"), random_photo(60, 90)])
    length = inputs["pixel_values"].shape[1]
    assert inputs["pixel_values"].shape == (2, length, 3 * 14 * 14)
    assert inputs["pixel_values"].dtype == torch.float32
    assert inputs["pixel_attention_mask"].sum(1).tolist() == [length, 5 * 7]
    assert inputs["scale_ids"].shape == (2, length)
    assert inputs["patch_positions"].shape == (2, length, 2)
    assert inputs["spatial_shapes"].shape == (2, 2, 2)
    assert inputs["spatial_shapes"][1].tolist() == [[5, 7], [0, 0]]
    padding = inputs["pixel_attention_mask"][1] == 0
    assert inputs["pixel_values"][1, padding].abs().max() == 0
    assert set(inputs) == set(processor.model_input_names)
    assert isinstance(processor(random_photo(30, 30), return_tensors="np")["pixel_values"], np.ndarray)


@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_every_position_lies_in_its_grid_and_no_two_tokens_share_one(selection: str, num_scales: int) -> None:
    photo = random_photo(700, 900)
    saliency = np.zeros((700, 900), dtype=np.uint8)
    saliency[100:300, 500:800] = 255
    inputs = CharmImageProcessor(patch_selection=selection, num_scales=num_scales, overflow="keep")(
        photo, saliency_maps=saliency
    )
    scales, positions, grids = (inputs[name][0] for name in ("scale_ids", "patch_positions", "spatial_shapes"))
    assert scales.unique().tolist() == list(range(num_scales))
    assert (scales.diff() >= 0).all()
    assert (positions < grids[scales]).all()
    assert len(torch.cat([scales[:, None], positions], 1).unique(dim=0)) == len(scales)
    # Together the tokens cover the whole image: each token's area, in regions, adds up to their number.
    per_region = [4, 9, 16] if num_scales == 3 else [1, 4]
    covered = sum((scales == scale).sum().item() / count for scale, count in enumerate(per_region))
    assert covered == grids[0].prod().item() / per_region[0]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_photo_gets_the_same_tokens_alone_and_anywhere_in_a_batch(selection: str, stochastic: bool) -> None:
    photos = [random_photo(400, 500, seed) for seed in range(3)]
    maps = [np.eye(400, 500) for _ in photos]
    processor = CharmImageProcessor(patch_selection=selection, stochastic_selection=stochastic, max_num_patches=400)
    alone = processor(photos[1], saliency_maps=maps[1])
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        batch = processor([photos[index] for index in order], saliency_maps=maps)
        place = order.index(1)
        for name in ("scale_ids", "patch_positions", "pixel_values"):
            assert torch.equal(batch[name][place, : alone[name].shape[1]], alone[name][0])


def test_randomness_follows_the_seed_only() -> None:
    photo = random_photo(600, 800)
    processor = CharmImageProcessor(patch_selection="random")

    def chosen(**kwargs: object) -> list:
        inputs = processor(photo, **kwargs)
        return inputs["patch_positions"][0].tolist()

    torch.manual_seed(1)
    first = chosen()
    torch.manual_seed(2)
    assert chosen() == first == chosen(seed=0)
    assert chosen(seed=5) != first
    both = processor([photo, photo], seed=[0, 5])
    assert both["patch_positions"][0].tolist() == first
    assert both["patch_positions"][1].tolist() == chosen(seed=5)
    torch.manual_seed(1)
    drawn = chosen(seed=None)
    assert chosen(seed=None) != drawn
    with pytest.raises(ValueError, match="3 seeds for 2 images"):
        processor([photo, photo], seed=[1, 2, 3])


def test_saliency_keeps_the_salient_regions_at_full_resolution() -> None:
    photo = random_photo(700, 700)
    saliency = np.zeros((700, 700), dtype=np.uint8)
    saliency[350:360, 0:560] = 1  # 20 regions of 28 pixels, of which 64 may be kept
    inputs = CharmImageProcessor(patch_selection="saliency", overflow="keep")(photo, saliency_maps=saliency)
    fine = inputs["patch_positions"][0][inputs["scale_ids"][0] == 1]
    kept = {(row, column) for row, column in (fine // 2).tolist()}
    assert {(12, column) for column in range(20)} <= kept
    with pytest.raises(ValueError, match="saliency_maps"):
        CharmImageProcessor(patch_selection="saliency")(photo)
    with pytest.raises(ValueError, match="10×10 pixels.*700×700"):
        CharmImageProcessor(patch_selection="saliency")(photo, saliency_maps=np.ones((10, 10)))
    with pytest.raises(ValueError, match="1 saliency maps for 2 images"):
        CharmImageProcessor(patch_selection="saliency")([photo, photo], saliency_maps=[saliency])


def test_original_is_the_papers_resize_and_centre_crop() -> None:
    image = Image.open(photo_path("coffee")).convert("RGB")
    inputs = CharmImageProcessor(patch_selection="original", do_normalize=False)(image)
    expected = np.asarray(image.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))) / 255
    tokens = inputs["pixel_values"][0].reshape(16, 16, 3, 14, 14).permute(0, 3, 1, 4, 2).reshape(224, 224, 3)
    assert np.allclose(tokens, expected, atol=1e-6)
    assert inputs["spatial_shapes"].tolist() == [[[16, 16], [0, 0]]]
    as_tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    difference = CharmImageProcessor(patch_selection="original", do_normalize=False)(as_tensor)["pixel_values"]
    assert (difference - inputs["pixel_values"]).abs().max() <= 4 / 255
    assert CharmImageProcessor(patch_selection="original")(random_photo(10, 3000))["pixel_values"].shape[1] == 256


@pytest.mark.parametrize("size", [(3000, 4000), (427, 640), (90, 9000), (1, 40000), (14, 14 * 513)])
def test_overflow_resize_makes_the_tokens_fit_and_keeps_the_aspect_ratio(size: tuple[int, int]) -> None:
    processor = CharmImageProcessor(max_num_patches=512, overflow="resize")
    count = processor.num_tokens(*size)
    assert 1 <= count <= 512
    assert processor.num_tokens(*size, overflow="keep") > 512
    if size[0] * size[1] < 10**6:
        inputs = processor(random_photo(*size))
        assert inputs["pixel_values"].shape[1] == count
        rows, columns = inputs["spatial_shapes"][0, 0].tolist()
        if min(size) > 100:
            assert columns / rows == pytest.approx(size[1] / size[0], rel=0.15)
            assert count > 400  # shrunk no more than it takes


@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_overflow_coarsen_keeps_native_pixels_and_shows_the_whole_photo(selection: str, num_scales: int) -> None:
    photo = random_photo(1500, 2000)
    photo[200:260, 300:360] //= 2
    processor = CharmImageProcessor(
        max_num_patches=512, patch_selection=selection, num_scales=num_scales, do_normalize=False
    )
    inputs = processor(photo, saliency_maps=np.eye(1500, 2000))
    scales, positions, grids = (inputs[name][0] for name in ("scale_ids", "patch_positions", "spatial_shapes"))
    assert len(scales) == processor.num_tokens(1500, 2000) <= 512
    padded = np.pad(photo, ((0, 56), (0, 56), (0, 0)))
    native = torch.from_numpy(padded).permute(2, 0, 1) / 255
    finest = scales == num_scales - 1
    assert finest.sum() == (256 if num_scales == 2 else 160)
    for token, (row, column) in zip(inputs["pixel_values"][0][finest], positions[finest], strict=True):
        place = native[:, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
        assert torch.allclose(token.view(3, 14, 14), place, atol=1e-6)
    rows, columns = grids[0].tolist()
    assert positions[scales == 0].tolist() == [[row, column] for row in range(rows) for column in range(columns)]
    small = Image.fromarray(photo).resize(processor.plan(1500, 2000).thumbnail[::-1], reducing_gap=3.0)
    first = torch.from_numpy(np.asarray(small)[:14, :14].copy()).permute(2, 0, 1) / 255
    assert torch.allclose(inputs["pixel_values"][0][0].view(3, 14, 14), first, atol=1e-6)


def test_coarsening_a_float_tensor_stays_within_the_documented_distance_of_pil() -> None:
    image = Image.open(photo_path("astronaut")).convert("RGB").resize((900, 900))
    tensor = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255).requires_grad_(True)
    processor = CharmImageProcessor(max_num_patches=300, do_normalize=False)
    from_tensor, from_image = processor(tensor), processor(image)
    assert torch.equal(from_tensor["patch_positions"], from_image["patch_positions"])
    difference = (from_tensor["pixel_values"] - from_image["pixel_values"]).abs()
    assert difference.max() <= 12 / 255
    assert difference.mean() <= 0.5 / 255
    from_tensor["pixel_values"].sum().backward()
    assert (tensor.grad.abs().sum(0) > 0).float().mean() > 0.9


def test_a_photo_that_fits_is_not_coarsened() -> None:
    photo = random_photo(400, 600)
    processor = CharmImageProcessor(max_num_patches=512)
    assert torch.equal(processor(photo)["pixel_values"], processor(photo, overflow="keep")["pixel_values"])


def test_a_plan_made_before_gives_the_same_tokens_and_fits_its_own_photo_only() -> None:
    processor = CharmImageProcessor(max_num_patches=300)
    plan = processor.plan(700, 900)
    photo = random_photo(700, 900)
    planned = processor(photo, plans=[plan])
    assert torch.equal(planned["pixel_values"], processor(photo)["pixel_values"])
    assert plan.num_tokens == planned["pixel_values"].shape[1]
    with pytest.raises(ValueError, match="700×900 pixels, but was planned with 900×700"):
        processor(photo.transpose(1, 0, 2), plans=[plan])
    with pytest.raises(ValueError, match="1 plans for 2 images"):
        processor([photo, photo], plans=[plan])


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coffee.jpg"
    Image.open(photo_path("coffee")).save(path)
    opened: list[object] = []
    really_open = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(args) or really_open(*args, **kwargs))
    CharmImageProcessor(max_num_patches=128)(path, reduced_decoding=True, overflow="resize")
    assert len(opened) == 1


def test_overflow_drop_keeps_a_random_subset_in_order() -> None:
    photo = random_photo(400, 700)
    kept = CharmImageProcessor(max_num_patches=100, overflow="keep")(photo)
    processor = CharmImageProcessor(max_num_patches=100, overflow="drop")
    dropped = processor(photo)
    assert dropped["pixel_values"].shape[1] == 100 == processor.num_tokens(400, 700)
    everything = kept["pixel_values"][0]
    places = [torch.nonzero((everything == token).all(1))[0].item() for token in dropped["pixel_values"][0]]
    assert places == sorted(set(places))
    assert torch.equal(processor(photo)["pixel_values"], dropped["pixel_values"])
    assert not torch.equal(processor(photo, seed=1)["pixel_values"], dropped["pixel_values"])


def test_padding_to_max_length() -> None:
    processor = CharmImageProcessor(max_num_patches=64, padding="max_length")
    inputs = processor(random_photo(50, 50))
    assert inputs["pixel_values"].shape[1] == 64
    assert inputs["pixel_attention_mask"].sum() == 16
    with pytest.raises(ValueError, match="max_length"):
        processor(random_photo(300, 400), overflow="keep")


def test_parameters_can_be_given_per_call_and_changed_after_construction() -> None:
    photo = random_photo(500, 600)
    processor = CharmImageProcessor()
    per_call = processor(photo, patch_selection="entropy", num_scales=3, do_normalize=False)
    processor.patch_selection, processor.num_scales, processor.do_normalize = "entropy", 3, False
    assert torch.equal(processor(photo)["pixel_values"], per_call["pixel_values"])
    processor.overflow = "explode"
    with pytest.raises(ValueError, match="'coarsen', 'resize', 'drop', 'keep'.*'explode'"):
        processor(photo)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"patch_selection": "magic"}, "patch_selection"),
        ({"patch_size": 0}, "patch_size"),
        ({"max_num_patches": -1}, "max_num_patches"),
        ({"downscale_factor": 1.5}, "downscale_factor"),
        ({"do_resize": True}, "longest_edge"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"padding": "sometimes"}, "padding"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"num_scales": 2000}, "num_scales"),
        ({"max_num_patches": 10**10}, "max_num_patches"),
        ({"patch_size": "14"}, "patch_size"),
        ({"patch_selektion": "entropy"}, "Unknown parameters patch_selektion"),
    ],
)
def test_impossible_parameters_are_refused_at_construction(parameters: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CharmImageProcessor(**parameters)


def test_a_misspelt_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown parameters patch_selektion"):
        CharmImageProcessor()(random_photo(20, 20), patch_selektion="entropy")


def test_what_every_image_processor_knows_is_accepted_as_far_as_it_is_true() -> None:
    photo, plain = random_photo(40, 60), CharmImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    short = CharmImageProcessor(image_mean=0.5, image_std=0.25)
    assert short.to_dict() == plain.to_dict()
    expected = plain(photo)["pixel_values"]
    assert torch.equal(short(photo, do_convert_rgb=True, data_format="channels_first")["pixel_values"], expected)
    assert torch.equal(CharmImageProcessor()(photo, image_mean=0.5, image_std=0.25)["pixel_values"], expected)
    for refused in ({"do_convert_rgb": False}, {"data_format": "channels_last"}):
        with pytest.raises(ValueError, match="must be one of None"):
            short(photo, **refused)


def test_longest_edge_shrinks_as_released_and_never_enlarges() -> None:
    processor = CharmImageProcessor.for_dataset("para", do_normalize=False, overflow="keep")
    image = Image.fromarray(random_photo(1000, 1500))
    shrunk = image.resize((1024, int(1000 * (1024 / 1500))))
    assert torch.equal(processor(image)["pixel_values"], processor(shrunk)["pixel_values"])
    small = random_photo(40, 50)
    assert torch.equal(
        processor(small)["pixel_values"], CharmImageProcessor(do_normalize=False)(small)["pixel_values"]
    )


def test_resizing_a_float_tensor_stays_within_the_documented_distance_of_pil() -> None:
    image = Image.open(photo_path("astronaut")).convert("RGB")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    processor = CharmImageProcessor(do_resize=True, size={"longest_edge": 300}, do_normalize=False)
    assert (processor(image)["pixel_values"] - processor(tensor)["pixel_values"]).abs().max() <= 4 / 255


def test_normalization_and_rescaling_do_what_their_names_say() -> None:
    photo = random_photo(28, 28)
    raw = CharmImageProcessor(do_normalize=False, do_rescale=False)(photo)["pixel_values"]
    assert raw.max() > 1
    assert torch.equal(raw, raw.round())
    scaled = CharmImageProcessor(do_normalize=False)(photo)["pixel_values"]
    assert torch.allclose(scaled, raw / 255)
    normal = CharmImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])(photo)["pixel_values"]
    mean = torch.tensor([0.1, 0.2, 0.3]).repeat_interleave(196)
    std = torch.tensor([0.5, 0.6, 0.7]).repeat_interleave(196)
    assert torch.allclose(normal, (scaled - mean) / std, atol=1e-6)


def test_paths_bytes_and_images_give_the_same_tokens_and_the_image_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "coffee.jpg"
    Image.open(photo_path("coffee")).save(path, quality=92)
    lazily_opened, loaded = Image.open(path), Image.open(path)
    loaded.load()
    before = loaded.tobytes()
    processor = CharmImageProcessor(max_num_patches=256)
    expected = processor(str(path))["pixel_values"]
    for source in (path, path.read_bytes(), lazily_opened, loaded, np.asarray(loaded), io.BytesIO(path.read_bytes())):
        assert torch.equal(processor(source)["pixel_values"], expected)
    assert loaded.tobytes() == before
    assert loaded.size == (600, 400)


def test_reduced_decoding_changes_pixels_only_a_little(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.open(photo_path("astronaut")).resize((2048, 2048), Image.Resampling.BICUBIC).save(path, quality=95)
    processor = CharmImageProcessor(
        max_num_patches=256, do_normalize=False, patch_selection="random", overflow="resize"
    )
    full = processor(path)["pixel_values"]
    reduced = processor(path, reduced_decoding=True)["pixel_values"]
    assert not torch.equal(full, reduced)
    assert (full - reduced).abs().mean() < 2 / 255


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (13, 900), (27, 3000), (3, 3)])
@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("overflow", ["keep", "drop", "resize", "coarsen"])
def test_tiny_and_thin_images_have_a_defined_result(size: tuple[int, int], num_scales: int, overflow: str) -> None:
    processor = CharmImageProcessor(max_num_patches=128, num_scales=num_scales, overflow=overflow)
    inputs = processor(random_photo(*size))
    assert inputs["pixel_values"].shape[1] == processor.num_tokens(*size) >= 1
    assert inputs["pixel_values"].isfinite().all()
    if overflow != "keep":
        assert inputs["pixel_values"].shape[1] <= 128


def test_a_flat_image_is_no_special_case() -> None:
    inputs = CharmImageProcessor(max_num_patches=128)(Image.new("RGB", (500, 500), "white"))
    assert inputs["pixel_values"].isfinite().all()


def test_errors_name_the_image(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    processor = CharmImageProcessor()
    with pytest.raises(ValueError, match="empty.jpg"):
        processor([photo_path("coffee"), tmp_path / "empty.jpg"])
    with pytest.raises(ValueError, match="image 1 of the batch"):
        processor([random_photo(20, 20), np.full((20, 20, 3), np.nan)])
    with pytest.raises(ValueError, match="empty list"):
        processor([])
    with pytest.raises(ValueError, match="NoneType"):
        processor([None])


def test_a_saved_processor_comes_back_as_it_was(tmp_path: Path) -> None:
    processor = CharmImageProcessor.for_dataset("spaq", patch_selection="entropy", seed=None, num_scales=3)
    processor.save_pretrained(tmp_path)
    loaded = CharmImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.seed is None
    assert CharmImageProcessor.from_pretrained(tmp_path, patch_selection="random").patch_selection == "random"
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"]["AutoImageProcessor"] == "image_processing_charm.CharmImageProcessor"


def test_no_warning_is_raised_on_the_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CharmImageProcessor(max_num_patches=200)([photo_path("coffee"), random_photo(50, 50)])


def test_tensors_stay_on_the_device_asked_for() -> None:
    inputs = CharmImageProcessor(max_num_patches=128)(random_photo(300, 300), device="cpu")
    assert {value.device.type for value in inputs.values()} == {"cpu"}
    on_meta = torch.rand(3, 40, 40)
    assert CharmImageProcessor()(on_meta)["pixel_values"].device == on_meta.device
