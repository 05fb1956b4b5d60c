import os
import random
import sys

import numpy as np
import pytest
import torch

from charm_hf.models import image_processing_charm
from charm_hf.scoring import Item, Scorer, ScoringOptions, batching, list_items, load_for_scoring, score_images
from charm_hf.scoring.batching import chunk_items, plan_batches


@pytest.fixture(scope="module")
def scorer_of(checkpoint):
    model, processor = load_for_scoring(str(checkpoint), device="cpu")
    return lambda **options: Scorer(model, processor, ScoringOptions(**options))


@pytest.mark.parametrize("seed", range(5))
def test_batches_hold_every_image_once_within_budget_and_with_little_padding(seed):
    lengths = [random.Random(seed).randint(1, 1025) for _ in range(400)]
    batches = plan_batches(lengths, token_budget=8192, max_images=30)
    assert sorted(index for batch in batches for index in batch) == list(range(400))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 8192
        assert len(batch) <= 30
        assert padded - sum(lengths[index] for index in batch) <= 0.1 * padded


def test_an_image_longer_than_the_budget_is_a_batch_of_its_own():
    assert plan_batches([5, 100, 5], token_budget=10) == [[1], [0, 2]]
    assert plan_batches([], token_budget=10) == []


def test_rows_come_in_the_order_of_the_source_whatever_the_batches(scorer_of, many_photos, monkeypatch):
    paths = sorted(many_photos.iterdir())
    random.Random(0).shuffle(paths)
    expected = None
    for chunk, options in [(512, {}), (16, {}), (7, {"batch_size": 3}), (512, {"token_budget": 1})]:
        monkeypatch.setattr(batching, "CHUNK_IMAGES", chunk)
        rows = list(scorer_of(**options).score(map(Item.from_file, paths)))
        assert [row.path for row in rows] == [str(path) for path in paths]
        expected = expected or rows
        for row, known in zip(rows, expected, strict=True):
            assert row.error == known.error
            assert row.score == pytest.approx(known.score, abs=2e-5)


@pytest.mark.slow
def test_worker_processes_change_nothing(scorer_of, many_photos):
    items = [Item.from_file(path) for path in sorted(many_photos.iterdir())[:20]]
    assert list(scorer_of(num_workers=1).score(items)) == list(scorer_of().score(items))


def test_rows_come_as_soon_as_those_before_them_are_there(scorer_of, many_photos):
    paths = iter(sorted(many_photos.iterdir()))
    taken = []

    def source():
        for path in paths:
            taken.append(path)
            yield Item.from_file(path)

    rows = scorer_of(batch_size=1).score(source())
    next(rows)
    assert len(taken) == 120  # one chunk ahead, not the end of the batch queue
    assert sum(1 for _ in rows) == 119


def test_chunks_of_image_content_end_early_so_that_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(batching, "CHUNK_BYTES", 1000)
    items = [Item(str(index), b"x" * 300) for index in range(10)]
    assert [(chunk.start, chunk.end) for chunk in chunk_items(items)] == [(0, 4), (4, 8), (8, 10)]
    assert [(chunk.start, chunk.end) for chunk in chunk_items(items[4:], 4)] == [(4, 8), (8, 10)]


opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)


@pytest.mark.parametrize("options", [{}, {"num_views": 3}, {"processor_parameters": {"reduced_decoding": True}}])
def test_a_photo_is_opened_once_for_its_header_and_once_for_its_pixels(scorer_of, photos, options):
    scorer = scorer_of(**options)
    opened.clear()
    rows = list(scorer.score(list_items([photos])))
    assert len(rows) == 6
    paths = [os.fspath(path) for path in opened if isinstance(path, (str, os.PathLike))]
    assert [paths.count(row.path) for row in rows] == [2] * 6


def test_a_photo_is_planned_once(scorer_of, photos, monkeypatch):
    scorer = scorer_of()
    planned = []
    plan_photo = image_processing_charm.plan_photo
    monkeypatch.setattr(
        image_processing_charm, "plan_photo", lambda *size: (planned.append(size[:2]), plan_photo(*size))[1]
    )
    sizes = [(row.height, row.width) for row in scorer.score(list_items([photos]))]
    assert sorted(planned) == sorted(sizes)


class DeadlyProcessor:
    """A processor that takes its process down over one image, as a broken decoder or the out-of-memory killer does."""

    seed = 0
    is_charm = True

    def __init__(self, processor, deadly):
        self.processor = processor
        self.deadly = deadly

    def plan(self, height, width, **parameters):
        return self.processor.plan(height, width, **parameters)

    def __call__(self, images, **parameters):
        if os.fspath(images[0]).endswith(self.deadly):
            os._exit(9)
        return self.processor(images, **parameters)


@pytest.mark.slow
def test_an_image_that_kills_its_worker_costs_only_itself(scorer_of, many_photos):
    items = [Item.from_file(path) for path in sorted(many_photos.iterdir())[10:22]]
    expected = list(scorer_of().score(items))
    scorer = scorer_of(num_workers=1, batch_size=4)
    deadly = Scorer(scorer.model, DeadlyProcessor(scorer.processor, "015.jpg"), scorer.options)
    rows = list(deadly.score(items))
    assert [row.path for row in rows] == [row.path for row in expected]
    assert [row.path[-7:] for row in rows if row.error] == ["015.jpg"]
    assert "died" in rows[5].error
    for row, known in zip(rows, expected, strict=True):
        assert row.error or row.score == pytest.approx(known.score, abs=2e-5)


def test_a_source_that_fails_ends_the_run_with_its_own_error(scorer_of, many_photos):
    def source():
        yield Item.from_file(many_photos / "000.jpg")
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="the network is gone"):
        list(scorer_of(num_workers=1).score(source()))


def test_score_images_takes_what_people_have(checkpoint, photos):
    from PIL import Image

    picture = Image.open(photos / "b.png")
    array = np.asarray(picture)
    forms = [photos / "b.png", picture, array, torch.from_numpy(array.copy()), (photos / "b.png").read_bytes()]
    rows = list(score_images(forms, model=str(checkpoint)))
    assert [row.path for row in rows] == [str(photos / "b.png"), "1", "2", "3", "4"]
    assert len({row.score for row in rows}) == 1
    # A batch of another size may round the sixth decimal the other way.
    assert next(score_images(picture, model=str(checkpoint))).score == pytest.approx(rows[0].score, abs=2e-6)
    assert next(score_images(array, model=str(checkpoint))).score == pytest.approx(rows[0].score, abs=2e-6)
    assert len(list(score_images(photos, model=str(checkpoint)))) == 6


def test_wrong_options_are_refused_before_the_first_image(scorer_of, checkpoint):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        ScoringOptions(batch_size=0)
    with pytest.raises(ValueError, match="`patch_selection` must be one of"):
        scorer_of(processor_parameters={"patch_selection": "beauty"})
    with pytest.raises(ValueError, match="needs its `processor`"):
        score_images([], model=load_for_scoring(str(checkpoint))[0])
