"""Counts, not seconds: what a change must not make more of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import photo_path, tiny_model, tiny_processor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from charm_hf import CharmImageProcessor
from charm_hf.models import patch_selection_charm, token_cutting_charm
from charm_hf.models.patch_selection_charm import strips_of as iter_strips


class CountOperators(TorchDispatchMode):
    """Counts the aten operators that run, and the bytes of the tensors that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        inputs = {tensor.data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.data_ptr() not in inputs:
            self.bytes += result.nbytes
        return result


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(photo_path("coffee")).convert("RGB").resize((1024, 768))


@pytest.mark.parametrize("selection", ["frequency", "gradient", "entropy", "random"])
def test_a_1024x768_photo_becomes_1164_tokens_and_few_operators(photo: Image.Image, selection: str) -> None:
    processor = CharmImageProcessor(patch_selection=selection, overflow="keep")
    processor(photo)
    with CountOperators() as operators:
        inputs = processor(photo)
    regions = 28 * 37
    assert inputs["pixel_values"].shape[1] == regions + 3 * 64 == 1228
    # Entropy counts each of its 28 strips with torch, in three parts that no threads share; nothing else may run once
    # a region or a strip.
    assert operators.count <= 40 + (5 * 3 * 28 if selection == "entropy" else 0)
    # The importances, and for entropy the counts: pixels and tokens are made once each, by NumPy.
    assert operators.bytes <= (20_000 if selection != "entropy" else 26 * 256 * regions + 20_000)


@pytest.mark.parametrize("selection", ["frequency", "gradient", "entropy"])
def test_pixels_are_read_once_for_importance_and_once_for_tokens(
    photo: Image.Image, selection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    for module in (patch_selection_charm, token_cutting_charm):
        monkeypatch.setattr(
            module, "strips_of", lambda planes, size: passes.append(planes.shape) or iter_strips(planes, size)
        )
    inputs = CharmImageProcessor(overflow="keep", patch_selection=selection)(photo)
    rows, columns = inputs["spatial_shapes"][0, 1].tolist()
    assert passes == [(3, 14 * rows, 14 * columns)] * 2


def test_the_memory_of_numpy_grows_by_little_more_than_the_tokens(photo: Image.Image) -> None:
    import tracemalloc

    processor = CharmImageProcessor(overflow="keep")
    tokens = processor(photo)["pixel_values"].nbytes
    tracemalloc.start()
    processor(photo)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= tokens + 3 * photo.width * photo.height + 4 * 2**20


def test_a_forward_pass_costs_a_fixed_number_of_operators_whatever_the_batch() -> None:
    model = tiny_model("dinov2")
    processor = tiny_processor(model)
    counts = []
    for size in (1, 4):
        inputs = processor([np.full((200, 300, 3), 99, np.uint8)] * size)
        with torch.no_grad():
            model(**inputs)
            with CountOperators() as operators:
                model(**inputs)
        counts.append(operators.count)
    assert counts[0] == counts[1] <= 190


@torch.no_grad()
def test_a_batch_of_unlike_photos_costs_a_cpu_no_more_than_the_photos_one_by_one() -> None:
    model = tiny_model("dinov2")
    processor = tiny_processor(model)
    photos = [np.full((100 + 60 * index, 150, 3), 40 * index, np.uint8) for index in range(4)]
    with FlopCounterMode(display=False) as alone:
        for photo in photos:
            model(**processor(photo))
    with FlopCounterMode(display=False) as together:
        model(**processor(photos))
    assert together.get_total_flops() <= alone.get_total_flops()
