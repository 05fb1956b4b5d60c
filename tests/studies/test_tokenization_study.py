"""The tokenization study: planted images, arms, faults, runner, statistics (studies/tokenization)."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode


pytest.importorskip("sklearn", reason="the study's photographs come from the wheels of scikit-image and scikit-learn")

from studies.results import fill_page, read_rows, write_rows
from studies.statistics_of_runs import Estimate, claims, draw_spread, estimate
from studies.tokenization import report, survival
from studies.tokenization import run as study_runner
from studies.tokenization.arms import ARMS, OVERFLOW_ARMS, TOKENIZATIONS, plan_large_regions
from studies.tokenization.faults import FAULTS
from studies.tokenization.planted_images import FACTORS, QUESTIONS, make_planted_image, subject_place
from studies.tokenization.token_cache import ensure_cache, flip_tokens, load_cache
from studies.tokenization.training import Recipe, build_model, gmacs


RECIPE = Recipe(patch_size=16, max_num_patches=64, hidden_size=16, num_heads=2, num_layers=1)
SCALE = 1 / 4  # with patches of 16 pixels and sequences of 64, about the geometry of the published study


@pytest.fixture(scope="module")
def images():
    return [make_planted_image(3, index, SCALE) for index in range(12)]


def test_equal_seeds_give_equal_images_and_others_differ():
    first, again, other = (make_planted_image(5, index, SCALE) for index in (0, 0, 1))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.factors == again.factors
    assert first.factors != other.factors


def test_the_score_of_all_is_the_mean_of_the_factors(images):
    for image in images:
        assert image.factors["all"] == pytest.approx(np.mean([image.factors[name] for name in FACTORS]))


def test_full_size_photos_have_the_stated_sides_and_aspects():
    sides = [make_planted_image(3, index).pixels.shape for index in range(6)]
    assert all(399 <= side <= 1501 for shape in sides for side in shape)
    factors = [make_planted_image(3, index).factors["aspect"] for index in range(6)]
    for (height, width), aspect in zip(sides, factors, strict=True):
        assert math.log(width / height) == pytest.approx(math.log(3) * (2 * aspect - 1), abs=0.01)


def checkerboard_energy(pixels: np.ndarray) -> float:
    rows, columns = np.indices(pixels.shape)
    product = pixels * np.where((rows + columns) % 2, -1.0, 1.0)
    return float(product.mean())


def test_fine_detail_is_in_the_pixels_and_gone_at_half_the_size(images):
    strength = [image.factors["detail"] for image in images]
    full = [checkerboard_energy(image.pixels.astype(float)) for image in images]
    half = []
    for image in images:
        picture = Image.fromarray(image.pixels)
        small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
        half.append(checkerboard_energy(np.asarray(small, dtype=float)))
    assert scipy.stats.pearsonr(full, strength)[0] > 0.8
    assert np.abs(half).mean() < 0.1 * np.abs(full).mean()


@pytest.mark.parametrize("placement", [0.0, 0.3, 1.0])
def test_placement_is_how_far_the_subject_lies_to_the_lower_right(placement):
    row, column = subject_place(placement, np.random.default_rng(0))
    assert ((row + column) / 2 - 0.07) / 0.86 == pytest.approx(placement)
    assert 0.07 - 1e-9 <= min(row, column) <= max(row, column) <= 0.93 + 1e-9


@pytest.mark.parametrize("name", TOKENIZATIONS)
def test_every_arm_keeps_to_the_limit_but_native(name, images):
    for image in images[:4]:
        tokens = TOKENIZATIONS[name](image.pixels, image.saliency, 16, 64, seed=0)
        length = len(tokens["scale_ids"])
        assert tokens["pixel_values"].shape == (length, 256)
        unlimited = name in ("native", "charm-keep")
        assert length > 1.5 * 64 if name == "native" else length <= 64 or unlimited


def test_large_regions_stay_native_and_any_other_becomes_one_token(images):
    for image in images[:4]:
        height, width = image.pixels.shape
        plan = plan_large_regions(height, width, 16, 64)
        coarse, fine = plan.scales
        assert coarse.region == fine.region == fine.shown
        assert coarse.shown == 16
        tokens = TOKENIZATIONS["charm-large-regions"](image.pixels, None, 16, 64, seed=0)
        assert len(tokens["scale_ids"]) == plan.num_tokens == coarse.count + fine.count * (fine.region // 16) ** 2


def test_squashing_hides_the_aspect_ratio_and_keeping_it_does_not(images):
    def shapes(name):
        tokens = [TOKENIZATIONS[name](image.pixels, None, 16, 64, seed=0) for image in images]
        return {tuple(item["spatial_shapes"][0].tolist()) for item in tokens}

    assert shapes("squash") == {(8, 8)}
    assert len(shapes("kept-aspect")) > 3


def test_another_draw_changes_random_tokenizations_only(images):
    image = images[0]
    for name, tokenize in TOKENIZATIONS.items():
        limit = 36 if name == "charm-drop" else 64  # where something is left to drop
        one, two = (tokenize(image.pixels, image.saliency, 16, limit, seed=seed) for seed in (1, 2))
        same = torch.equal(one["pixel_values"], two["pixel_values"])
        assert same != tokenize.is_random, name


def batch_of(name: str, images, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    rows = [TOKENIZATIONS[name](image.pixels, image.saliency, 16, 64, seed) for image in images]
    return [
        {key: value[None] if key != "pixel_values" else value[None].float() / 255 for key, value in row.items()}
        for row in rows
    ]


def padded(row: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    missing = length - row["scale_ids"].shape[1]
    grow = torch.nn.functional.pad
    return {
        "pixel_values": grow(row["pixel_values"], (0, 0, 0, missing)),
        "scale_ids": grow(row["scale_ids"], (0, missing)),
        "patch_positions": grow(row["patch_positions"], (0, 0, 0, missing)),
        "spatial_shapes": row["spatial_shapes"],
        "pixel_attention_mask": grow(torch.ones_like(row["scale_ids"]), (0, missing)),
    }


def test_padding_moves_the_score_only_where_the_fault_is_put_back(images):
    row = batch_of("charm-frequency", images[:1])[0]
    length = row["scale_ids"].shape[1]
    for name in ("ours", "attended-padding"):
        torch.manual_seed(0)
        model = FAULTS[name].wrap(build_model(RECIPE, 2, 1, 5, FAULTS[name])).eval()
        with torch.no_grad():
            tight, loose = (model(**padded(row, size)).normalized_scores.item() for size in (length, length + 20))
        assert (abs(tight - loose) < 1e-5) == (name == "ours")


def test_frozen_scales_are_not_trained_and_reference_positions_reach_the_model():
    frozen = build_model(RECIPE, 2, 1, 5, FAULTS["frozen-scales"])
    assert not frozen.charm.embeddings.scale_embeddings.requires_grad
    assert build_model(RECIPE, 2, 1, 5, FAULTS["reference-positions"]).config.position_mode == "reference"


def test_mirrored_tokens_score_like_the_mirrored_photo(images):
    torch.manual_seed(0)
    model = build_model(RECIPE, 1, 1, 1, FAULTS["ours"]).eval()
    pixels = np.asarray(Image.fromarray(images[0].pixels).resize((128, 128)))
    photo, mirrored = (
        padded({key: value[None] for key, value in TOKENIZATIONS["squash"](p, None, 16, 64, 0).items()}, 64)
        for p in (pixels, np.ascontiguousarray(pixels[:, ::-1]))
    )

    class Always:
        def random(self, size):
            return np.zeros(size)

    with torch.no_grad():
        by_tokens = model(**_scaled(flip_tokens(photo, Always(), 16))).normalized_scores
        by_photo = model(**_scaled(mirrored)).normalized_scores
        plain = model(**_scaled(photo)).normalized_scores
    assert torch.allclose(by_tokens, by_photo, atol=1e-6)
    assert not torch.allclose(by_tokens, plain, atol=1e-6)


def _scaled(batch):
    return {**batch, "pixel_values": batch["pixel_values"].float() / 255}


def test_gmacs_agree_with_a_counter_of_operations(images):
    row = batch_of("squash", images[:1])[0]
    model = build_model(RECIPE, 1, 1, 1, FAULTS["ours"]).eval()
    model.charm.backbone.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**padded(row, 64))
    # Reading the table of positions does not count as the encoder's work, as in the papers.
    positions = 64 * model.charm.backbone.embeddings.position_embeddings[0, 1:].numel()
    assert (counter.get_total_flops() / 2 - positions) / 1e9 == pytest.approx(gmacs(RECIPE, 64, 1), rel=0.01)


def test_the_runner_writes_tidy_results_and_repeats_nothing(tmp_path, capsys):
    flags = ["--size", "smoke", "--seeds", "1", "--studies", "faults", "selection"]
    folders = ["--work-dir", str(tmp_path / "work"), "--output-dir", str(tmp_path / "results")]
    study_runner.main([*flags, *folders])
    rows = list(csv.DictReader((tmp_path / "results" / "faults" / "results.csv").open()))
    assert tuple(rows[0]) == study_runner.COLUMNS
    assert {row["arm"] for row in rows} == set(FAULTS)
    assert len(rows) == len(FAULTS) * 5
    assert {row["factor"] for row in rows} == set(QUESTIONS)
    views = read_rows(tmp_path / "results" / "selection" / "results.csv.gz")
    assert len(views) == 4 * 3

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "smoke" / "results").iterdir()}
    one = next(path for path in written if "frozen" in path.name)
    before = one.read_text()
    one.unlink()
    study_runner.main([*flags, *folders])
    assert {path for path in written if path.stat().st_mtime_ns != written[path]} == {one}
    assert _rows_of(before) == _rows_of(one.read_text())


def test_asked_one_at_a_time_each_question_has_a_model_of_its_own():
    size = replace(study_runner.SIZES["smoke"], one_at_a_time=True, seeds=2)
    jobs = study_runner.list_jobs(["planted", "faults", "selection"], size)
    assert len(set(jobs)) == len(jobs) == 2 * (len(ARMS) * 5 + (len(FAULTS) - 1) * len(size.fault_questions))
    assert all(job.questions == (job.question,) for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    together = study_runner.list_jobs(["planted"], replace(size, one_at_a_time=False))
    assert len(together) == 2 * len(ARMS)
    assert all(job.questions == QUESTIONS for job in together)


@pytest.mark.slow
def test_two_workers_find_what_one_finds(tmp_path):
    tables = []
    for workers in ("1", "2"):
        folders = ["--work-dir", str(tmp_path / workers), "--output-dir", str(tmp_path / f"tables{workers}")]
        flags = ["--size", "smoke", "--seeds", "1", "--studies", "selection", "--workers", workers]
        study_runner.main([*flags, *folders])
        tables.append((tmp_path / f"tables{workers}" / "selection" / "results.csv.gz").read_bytes())
    assert tables[0] == tables[1]


def test_a_folder_of_runs_with_other_settings_is_refused(tmp_path):
    study = study_runner.Study(study_runner.SIZES["smoke"], tmp_path / "runs", None)
    study_runner.claim_work_dir(study)
    study_runner.claim_work_dir(replace(study, size=replace(study.size, seeds=1)))  # fewer of the same
    with pytest.raises(SystemExit, match="other settings"):
        study_runner.claim_work_dir(replace(study, size=replace(study.size, pool=13)))


def test_a_batch_from_the_cache_is_what_the_tokenization_gave(images, tmp_path):
    photos = [(image.pixels, image.saliency) for image in images]
    cache = load_cache(ensure_cache(tmp_path, TOKENIZATIONS["charm-random"], lambda: photos, 16, 64, num_draws=2))
    chosen, draws = np.array([3, 0, 7]), np.array([1, 0, 1])
    batch = cache.batch(chosen, draws, normalize=(0.0, 1.0))
    for row, (image, draw) in enumerate(zip(chosen, draws, strict=True)):
        expected = TOKENIZATIONS["charm-random"](*photos[image], 16, 64, seed=int(image) * 1000 + int(draw))
        length = len(expected["scale_ids"])
        assert batch["pixel_attention_mask"][row].sum() == length
        assert torch.allclose(batch["pixel_values"][row, :length] * 255, expected["pixel_values"].float())
        assert torch.equal(batch["patch_positions"][row, :length], expected["patch_positions"])
        assert torch.equal(batch["spatial_shapes"][row], expected["spatial_shapes"])
        assert not batch["pixel_values"][row, length:].any()


def _rows_of(text: str) -> list:
    import json

    return json.loads(text)["rows"]


def test_training_and_validation_differ_by_seed_and_never_meet_the_test_images():
    size = study_runner.SIZES["quick"]
    first, other = study_runner.split_pool(size, 0), study_runner.split_pool(size, 1)
    assert not np.array_equal(np.sort(first[1]), np.sort(other[1]))
    assert np.array_equal(first[2], other[2])
    assert len(np.unique(np.concatenate(first))) == size.pool + size.test


def test_the_interval_is_students_and_widens_for_folds_that_share_photos():
    values = [0.2, 0.25, 0.3, 0.22, 0.28]
    found = estimate(values)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
    assert estimate(values, variance_factor=0.25).half == pytest.approx(found.half * math.sqrt((0.2 + 0.25) / 0.2))


def test_the_spread_between_draws_is_told_from_that_between_images():
    rng = np.random.default_rng(0)
    scores = 2.0 * rng.standard_normal(4000) + 1.0 * rng.standard_normal((8, 4000))
    spread = draw_spread(scores)
    assert spread.between_draws == pytest.approx(1.0, rel=0.05)
    assert spread.between_images == pytest.approx(2.0, rel=0.05)
    assert spread.reliability(4) == pytest.approx(4 / 4.25, abs=0.01)
    assert spread.draws_needed(0.95) == 5


def test_a_table_replaces_what_stood_between_its_marks(tmp_path):
    page, before = (
        tmp_path / "page.md",
        "a\n<!-- table x -->\nold\n<!-- end -->\nb\n<!-- table y -->\nkept\n<!-- end -->\n",
    )
    page.write_text(before)
    fill_page(page, {"x": "new"})
    assert page.read_text() == before.replace("old", "new")


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_rows_come_back_as_they_were_written_and_equal_rows_are_equal_files(tmp_path, name):
    for copy in ("a", "b"):
        write_rows(tmp_path / copy / name, ("arm", "srcc"), [("x, y", 0.5), ("z", 1)])
    assert read_rows(tmp_path / "a" / name) == [{"arm": "x, y", "srcc": "0.5"}, {"arm": "z", "srcc": "1"}]
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_claim_is_bold_only_if_it_holds_among_so_many():
    cells = [Estimate(0.3, 0.1, p) for p in (0.001, 0.02, 0.04, 0.9)]
    alone = [claims([[cell]])[0][0].startswith("**") for cell in cells]
    assert alone == [True, True, True, False]
    together = claims([cells[:2], [*cells[2:], None]])  # Holm: 0.001 < 0.05 / 4, but 0.02 > 0.05 / 3
    assert [cell.startswith("**") for cell in together[0]] == [True, False]
    assert together[1] == ["+0.300 ± 0.100", "+0.300 ± 0.100", ""]


def test_differences_are_paired_by_seed():
    rows = [
        {"arm": arm, "factor": "all", "seed": str(seed), "srcc": str(value + seed * step)}
        for arm, value, step in (("a", 0.5, 0.1), ("b", 0.2, 0.1))
        for seed in range(5)
    ]
    found = report.difference(rows, "a", "b", "all")
    assert (found.mean, found.half) == pytest.approx((0.3, 0))


def test_the_pages_hold_the_tables_of_the_committed_results(tmp_path):
    for page in report.PAGES:
        copy = tmp_path / page.name
        copy.write_text(page.read_text("utf-8"), "utf-8")
        fill_page(copy, report.make_tables(report.HERE / "results"))
        assert copy.read_text("utf-8") == page.read_text("utf-8")
    assert len(report.PAGES[1].read_text("utf-8").split()) <= 1500  # a page that a reader finishes


def test_every_arm_names_known_tokenizations():
    assert {name for arm in [*ARMS.values(), *OVERFLOW_ARMS.values()] for name in (arm.train, arm.evaluate)} <= set(
        TOKENIZATIONS
    )


def test_the_survival_of_a_checkerboard_is_one_in_native_tokens_and_none_in_shrunk_ones(tmp_path, monkeypatch, capsys):
    size = replace(study_runner.SIZES["smoke"], arms="sizes", areas=(60_000, 100_000), scale=1.0, pool=2, test=2)
    monkeypatch.setitem(study_runner.SIZES, "smoke", size)
    flags = [
        "--work-dir",
        str(tmp_path),
        "--size",
        "smoke",
        "--edges",
        "0",
        "1",
        "--output",
        str(tmp_path / "s.csv"),
    ]
    survival.main(flags)
    shares = {row["tokenization"]: float(row["survives"]) for row in read_rows(tmp_path / "s.csv")}
    assert shares["charm-keep"] > 0.5
    assert shares["squash"] < 0.1
    assert "| charm-coarsen | 0-1 | 4 |" in capsys.readouterr().out
