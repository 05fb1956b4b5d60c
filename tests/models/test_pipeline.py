"""`pipeline("image-aesthetics")` as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_model, tiny_processor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from charm_hf import CharmForAestheticScoring, ImageAestheticsPipeline
from charm_hf.models.scores_charm import percentile_of_score


@pytest.fixture(scope="module")
def scorer(checkpoint: str) -> ImageAestheticsPipeline:
    return pipeline("image-aesthetics", model=checkpoint)


def score_list(results: list[dict]) -> list[float]:
    return [result["score"] for result in results]


def test_importing_the_package_makes_the_auto_classes_know_it(checkpoint: str) -> None:
    assert type(AutoConfig.from_pretrained(checkpoint)).__module__ == "charm_hf.models.configuration_charm"
    for auto_class in (AutoModel, AutoModelForImageClassification):
        assert type(auto_class.from_pretrained(checkpoint)) is CharmForAestheticScoring
    assert type(AutoImageProcessor.from_pretrained(checkpoint)).__module__ == "charm_hf.models.image_processing_charm"


def test_one_photo_gives_the_documented_result(scorer: ImageAestheticsPipeline, photos: list[str]) -> None:
    result = scorer(photos[0])
    assert list(result) == ["score", "normalized_score", "std", "distribution"]
    assert 1 <= result["score"] <= 10
    assert result["normalized_score"] == pytest.approx((result["score"] - 1) / 9, abs=1e-6)
    assert len(result["distribution"]) == 10
    assert sum(result["distribution"]) == pytest.approx(1, abs=1e-5)
    values = np.arange(1, 11)
    assert result["score"] == pytest.approx(float(values @ result["distribution"]), abs=1e-5)
    spread = np.sqrt(np.array(result["distribution"]) @ (values - result["score"]) ** 2)
    assert result["std"] == pytest.approx(spread, abs=1e-5)
    outputs = scorer.model(**scorer.image_processor(photos[0]))
    assert result["score"] == pytest.approx(outputs.scores.item(), abs=1e-6)


def test_every_way_to_give_photos_gives_the_same_scores(
    scorer: ImageAestheticsPipeline, photos: list[str], tmp_path: Path
) -> None:
    expected = [scorer(photo)["score"] for photo in photos]
    assert len(set(expected)) == 3
    images = [Image.open(photo).convert("RGB") for photo in photos]
    dataset = datasets.Dataset.from_dict({"image": photos}).cast_column("image", datasets.Image())

    def generate() -> Iterator[str]:
        yield from photos

    for given in (
        photos,
        tuple(photos),
        images,
        [np.asarray(image) for image in images],
        [Path(photo).read_bytes() for photo in photos],
        [{"image": photo} for photo in photos],
        dataset["image"],
        dataset,
    ):
        results = scorer(given, batch_size=2)
        assert isinstance(results, list)
        assert score_list(results) == pytest.approx(expected, abs=1e-5)
    for given in (generate(), KeyDataset(dataset, "image"), dataset.to_iterable_dataset()):
        assert score_list(list(scorer(given))) == pytest.approx(expected, abs=1e-5)
    assert scorer([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_unlike_sizes_may_share_a_batch(scorer: ImageAestheticsPipeline, photos: list[str], batch_size: int) -> None:
    generator = np.random.default_rng(0)
    sizes = [(30, 40), (500, 90), (250, 251), (16, 16)]
    given = [*photos, *(generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)]
    alone = [scorer(photo)["normalized_score"] for photo in given]
    batched = [result["normalized_score"] for result in scorer(given, batch_size=batch_size)]
    assert batched == pytest.approx(alone, abs=1e-5)


def test_processor_parameters_can_be_given_per_call_and_at_construction(checkpoint: str, photos: list[str]) -> None:
    plain = pipeline("image-aesthetics", model=checkpoint)
    cropped = pipeline("image-aesthetics", model=checkpoint, patch_selection="original")
    assert plain(photos[0], patch_selection="original") == cropped(photos[0])
    assert plain(photos[0]) != cropped(photos[0])
    with pytest.raises(ValueError, match="Unknown parameters pach_selection"):
        plain(photos[0], pach_selection="original")


def test_views_are_averaged_and_their_spread_reported(scorer: ImageAestheticsPipeline, photos: list[str]) -> None:
    drawn = [scorer(photos[0], stochastic_selection=True, seed=view)["score"] for view in range(4)]
    assert len(set(drawn)) > 1
    result = scorer(photos[0], num_views=4)
    assert result["score"] == pytest.approx(np.mean(drawn), abs=1e-5)
    assert result["spread"] == pytest.approx(np.std(drawn, ddof=1), abs=1e-5)
    in_a_batch = scorer(photos, num_views=4, batch_size=3)[0]
    assert in_a_batch["score"] == pytest.approx(result["score"], abs=1e-5)
    assert in_a_batch["spread"] == pytest.approx(result["spread"], abs=1e-5)
    with pytest.raises(ValueError, match="num_views"):
        scorer(photos[0], num_views=0)


def test_a_regression_head_has_no_distribution_and_attributes_are_passed_on(photos: list[str]) -> None:
    model = tiny_model(dataset="aadb", num_attributes=11)
    scorer = ImageAestheticsPipeline(model=model, image_processor=tiny_processor(model))
    for result in scorer(photos, batch_size=3):
        assert result["std"] is None
        assert result["distribution"] is None
        assert len(result["attributes"]) == 11
        assert 0 <= result["score"] <= 1


def test_a_percentile_is_given_when_the_checkpoint_knows_its_training_ratings(photos: list[str]) -> None:
    model = tiny_model()
    model.config.score_quantiles = [1.0, 4.0, 5.0, 6.0, 10.0]
    scorer = ImageAestheticsPipeline(model=model, image_processor=tiny_processor(model))
    result = scorer(photos[0])
    assert result["percentile"] == percentile_of_score(result["score"], model.config.score_quantiles)
    assert percentile_of_score(5.0, model.config.score_quantiles) == 50.0
    assert percentile_of_score(0.0, model.config.score_quantiles) == 0.0
    assert percentile_of_score(5.5, model.config.score_quantiles) == 62.5


def test_a_broken_photo_is_named(scorer: ImageAestheticsPipeline, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(ValueError, match="broken.jpg"):
        scorer([photos[0], str(tmp_path / "broken.jpg")])
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        scorer("nowhere.jpg")


def test_a_saved_pipeline_comes_back(scorer: ImageAestheticsPipeline, photos: list[str], tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path)
    again = pipeline("image-aesthetics", model=str(tmp_path))
    assert again(photos) == scorer(photos)
    assert (tmp_path / "pipeline_image_aesthetics.py").exists()


def test_nothing_is_printed_to_stdout_and_nobody_is_asked(checkpoint: str, photos: list[str]) -> None:
    code = (
        "import sys, charm_hf\n"
        "from transformers import pipeline\n"
        "scores = pipeline('image-aesthetics', model=sys.argv[1])(sys.argv[2:], batch_size=2)\n"
        "labels = {found['label'] for found in pipeline('image-classification', model=sys.argv[1])(sys.argv[2])}\n"
        "assert labels <= {str(bin) for bin in range(1, 11)}, labels\n"
        "sys.stderr.write(f'scored {len(scores)}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint, *photos], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "scored 3" in done.stderr
    assert "custom code" not in done.stderr


@pytest.mark.slow
def test_workers_started_afresh_can_tokenize(checkpoint: str, photos: list[str]) -> None:
    """`num_workers` under the spawn start method, as on macOS and Windows.

    With `batch_size` above 1 transformers itself cannot: its collate function is a closure, which does not pickle.
    """
    code = (
        "import sys, torch.multiprocessing as mp, charm_hf\n"
        "from transformers import pipeline\n"
        "if __name__ == '__main__':\n"
        "    mp.set_start_method('spawn')\n"
        "    pipe = pipeline('image-aesthetics', model=sys.argv[1])\n"
        "    print(*[result['score'] for result in pipe(sys.argv[2:], num_workers=1)])\n"
    )
    script = Path(checkpoint).parent / "spawned.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script), checkpoint, *photos], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = score_list(pipeline("image-aesthetics", model=checkpoint)(photos))
    assert [float(value) for value in done.stdout.split()] == pytest.approx(expected, abs=1e-5)


def test_bfloat16_on_request(checkpoint: str, photos: list[str]) -> None:
    half = pipeline("image-aesthetics", model=checkpoint, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    full = pipeline("image-aesthetics", model=checkpoint)
    assert half(photos[0])["normalized_score"] == pytest.approx(full(photos[0])["normalized_score"], abs=0.1)
