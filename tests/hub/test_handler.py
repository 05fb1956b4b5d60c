import base64
import importlib.util
from pathlib import Path

import pytest
from PIL import Image
from support import photo_path
from transformers import pipeline

from charm_hf.hub.layout import ASSETS, HANDLER_NAME


def test_an_endpoint_scores_photos_in_base64_and_takes_nothing_for_a_path_or_a_url(checkpoint):
    spec = importlib.util.spec_from_file_location("handler", ASSETS / HANDLER_NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(checkpoint)
    path = photo_path("coffee")
    expected = pipeline("image-aesthetics", model=checkpoint)(path)["score"]
    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    (one,) = handler({"inputs": encoded})
    assert one["score"] == pytest.approx(expected, abs=1e-4)
    sent = [Image.open(path), path, "https://example.com/photo.jpg", {"image": path}]
    answers = handler({"inputs": sent, "parameters": {"return_embeddings": True, "device": "elsewhere"}})
    assert answers[0]["score"] == pytest.approx(expected, abs=1e-4)
    assert answers[0]["embedding"]
    assert all(set(answer) == {"error"} for answer in answers[1:])
