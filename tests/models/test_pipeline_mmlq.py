"""`pipeline("image-aesthetics")` with a checkpoint that reads comments."""

import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset
from mmlq_fixtures import COMMENTS, photos, tiny_model, tiny_processor, tiny_text_config
from transformers import pipeline

from charm_hf import ImageAestheticsPipeline, MmlqProcessor


VISIONS = ("clip", "charm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint with a CLIP encoder, and one with a Charm encoder."""
    root = tmp_path_factory.mktemp("mmlq")
    for vision in VISIONS:
        tiny_model(vision).save_pretrained(root / vision)
        tiny_processor(vision).save_pretrained(root / vision)
    return root


def direct_scores(vision, images, comments):
    return tiny_model(vision)(**tiny_processor(vision)(images, comments)).scores.tolist()


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_photos_are_scored_with_their_comments_and_without(folders, vision, batch_size):
    scorer = pipeline("image-aesthetics", model=str(folders / vision), batch_size=batch_size)
    images = photos()
    given = [{"image": image, "comments": said} for image, said in zip(images, COMMENTS, strict=True)]
    results = scorer(given)
    assert set(results[0]) == {"score", "normalized_score", "std", "distribution"}
    expected = direct_scores(vision, images, COMMENTS)
    assert [result["score"] for result in results] == pytest.approx(expected, abs=1e-5)
    silent = direct_scores(vision, images, None)
    for way in (
        images,
        [{"image": image} for image in images],
        [{"image": image, "comments": []} for image in images],
    ):
        assert [result["score"] for result in scorer(way)] == pytest.approx(silent, abs=1e-5)
    assert scorer(given[0])["score"] == pytest.approx(expected[0], abs=1e-5)
    assert expected[0] != pytest.approx(silent[0], abs=1e-3)


def test_a_dataset_with_images_and_comments_is_scored_row_by_row(folders):
    images = photos()
    comments = [[text for text in said if text.strip()] for said in COMMENTS]
    dataset = Dataset.from_dict({"image": images, "comments": comments, "rating": [1.0, 2.0, 3.0, 4.0]})
    results = pipeline("image-aesthetics", model=str(folders / "clip"))(dataset, batch_size=2)
    expected = direct_scores("clip", images, COMMENTS)
    assert [result["score"] for result in results] == pytest.approx(expected, abs=1e-5)


def test_views_need_an_encoder_that_selects(folders):
    image = photos(1, sizes=((300, 200),))[0]
    given = {"image": image, "comments": ["great light"]}
    charm = pipeline("image-aesthetics", model=str(folders / "charm"))
    result = charm(given, num_views=4)
    assert result["spread"] > 0
    assert abs(result["score"] - charm(given)["score"]) < 1
    with pytest.raises(ValueError, match="num_views"):
        pipeline("image-aesthetics", model=str(folders / "clip"))(given, num_views=2)


def test_a_tokenizer_of_another_encoder_is_refused_before_anything_is_scored():
    model, processor = tiny_model(text=tiny_text_config(vocab_size=20)), tiny_processor()
    with pytest.raises(ValueError, match="belongs to another encoder"):
        ImageAestheticsPipeline(model=model, processor=processor, image_processor=processor.image_processor)


def test_a_saved_pipeline_loads_again(folders, tmp_path):
    scorer = pipeline("image-aesthetics", model=str(folders / "charm"))
    scorer.save_pretrained(tmp_path)
    given = {"image": photos(1)[0], "comments": "great light"}
    loaded = pipeline("image-aesthetics", model=str(tmp_path))
    assert isinstance(loaded.processor, MmlqProcessor)
    assert loaded(given) == scorer(given)


def test_a_checkpoint_is_scored_where_the_package_is_not_installed(folders, tmp_path):
    images, paths = photos(), []
    for index, image in enumerate(images):
        paths.append(str(tmp_path / f"{index}.png"))
        image.save(paths[-1])
    script = """
import json, sys
sys.modules["charm_hf"] = None
from transformers import pipeline
given = [{"image": path, "comments": said} for path, said in json.loads(sys.argv[1])]
for folder in sys.argv[2:]:
    scorer = pipeline("image-aesthetics", model=folder, trust_remote_code=True)
    print(json.dumps([result["score"] for result in scorer(given, batch_size=3)]))
"""
    given = json.dumps(list(zip(paths, COMMENTS, strict=True)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", script, given, *(str(folders / vision) for vision in VISIONS)]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stderr
    for vision, line in zip(VISIONS, run.stdout.splitlines(), strict=True):
        assert json.loads(line) == pytest.approx(direct_scores(vision, images, COMMENTS), abs=1e-5)
