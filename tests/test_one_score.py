"""The same photo has the same score from every entrance, by default."""

import base64
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image
from support import photo_path
from transformers import pipeline

import charm_hf
from charm_hf.hub.layout import ASSETS, HANDLER_NAME
from charm_hf.integrations import ImageRater
from charm_hf.look.demo import load_pipeline
from charm_hf.look.uploads import score_photos
from charm_hf.scoring import CharmScorer, Scorer, ScoringOptions, load_for_scoring
from charm_hf_cli import main


MODEL = charm_hf.embedded_model_path()
ENTRANCES = {}


def entrance(function):
    """Enter a function that gives the normalized scores of photos."""
    return ENTRANCES.setdefault(function.__name__, function)


@entrance
def from_the_pipeline(paths):
    return [answer["normalized_score"] for answer in pipeline("image-aesthetics", model=MODEL)(paths)]


@entrance
def from_a_table_of_datasets_or_ray(paths):
    return CharmScorer()({"image": paths})["aesthetic_score"].tolist()


@entrance
def from_the_demo(paths):
    photos = {photo.name: photo.result for photo in score_photos(paths, load_pipeline(MODEL))}
    return [photos[Path(path).name]["normalized_score"] for path in paths]


@entrance
def from_the_server(paths):
    testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra charm-hf[serve]")
    from charm_hf.serving import create_app

    scorer = Scorer(*load_for_scoring(), ScoringOptions(embeddings=True))
    with testclient.TestClient(create_app(scorer)) as client:
        answer = client.post("/score", files=[("files", (path, Path(path).read_bytes())) for path in paths])
    return [told["normalized_score"] for told in answer.json()["results"]]


@entrance
def from_an_inference_endpoint(paths):
    spec = importlib.util.spec_from_file_location("handler", ASSETS / HANDLER_NAME)
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    photos = [base64.b64encode(Path(path).read_bytes()).decode() for path in paths]
    return [answer["normalized_score"] for answer in handler.EndpointHandler(MODEL)({"inputs": photos})]


@entrance
def from_a_curator(paths):
    return [rating.score for rating in ImageRater()(paths)]


@entrance
def from_a_reward(paths):
    return charm_hf.AestheticReward()([Image.open(path) for path in paths]).tolist()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """JPEGs, a small one and one of twelve megapixels on its side, as cameras write them."""
    folder = tmp_path_factory.mktemp("photos")
    with Image.open(photo_path("chelsea")) as small:
        small.save(folder / "chelsea.jpg", quality=90)
        exif = small.getexif()
        exif[0x0112] = 6
        small.resize((4000, 3000), Image.Resampling.BICUBIC).save(folder / "large.jpg", exif=exif)
    return [str(folder / name) for name in ("chelsea.jpg", "large.jpg")]


@pytest.fixture(scope="module")
def by_command(paths, tmp_path_factory) -> list[float]:
    output = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    with pytest.raises(SystemExit) as stop:
        main(["score", *paths, "--output", str(output), "--quiet"])
    assert stop.value.code == 0
    return [json.loads(line)["normalized_score"] for line in output.read_text().splitlines()]


@pytest.mark.parametrize("ask", ENTRANCES.values(), ids=ENTRANCES)
def test_a_photo_has_the_score_that_the_command_gives(ask, paths, by_command):
    assert ask(paths) == pytest.approx(by_command, abs=1e-4)
