import itertools

import pytest
import torch

from charm_hf import CharmImageProcessor, load_aesthetic_dataset
from charm_hf.training import CharmDataCollator
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.batches import (
    EpochBatchSampler,
    TokenizedDataset,
    WaitClock,
    derive_seed,
    evaluation_batches,
    make_loader,
)


def indices(sampler):
    return [[index for _, index in batch] for batch in sampler]


def test_an_epoch_shows_every_photo_once_in_an_order_of_its_own():
    sampler = EpochBatchSampler(10, 4, seed=3)
    first = indices(sampler)
    sampler.set_position(1)
    second = indices(sampler)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(sampler) == 3
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(10))
    assert first != second


def test_photos_of_one_series_come_in_one_batch_in_an_order_of_its_own():
    groups = [index // 3 for index in range(12)]
    found = []
    for world in (1, 2):
        samplers = [EpochBatchSampler(12, 6 // world, 3, world, rank, groups) for rank in range(world)]
        batches = [[groups[index] for index in batch] for sampler in samplers for batch in indices(sampler)]
        assert all(batch.count(group) == 3 for batch in batches for group in set(batch))
        found.append(sorted(group for batch in batches for group in batch))
    assert found == [groups, groups]
    sampler = EpochBatchSampler(12, 6, 3, groups=groups)
    first = indices(sampler)
    sampler.set_position(1)
    assert indices(sampler) != first


def test_photos_of_one_series_are_seen_alike(photo_table):
    table = load_aesthetic_dataset("csv", photo_table, "train", extra_columns=["kind"])
    same = table.select([0, 0, 2]).remove_columns("kind").add_column("kind", ["a", "a", "b"])
    random = {"patch_selection": "random"}
    photos = TokenizedDataset(
        same, CharmImageProcessor(max_num_patches=64), "score", None, random, group_column="kind"
    )
    one, two, other = (photos[0, index] for index in range(3))
    assert one["group"] == two["group"] != other["group"]
    assert one["pixel_values"].equal(two["pixel_values"])


def test_two_processes_share_the_batches_of_one_with_twice_the_batch():
    one = indices(EpochBatchSampler(12, 4, seed=5))
    two = [indices(EpochBatchSampler(12, 2, 5, 2, process)) for process in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


@pytest.mark.parametrize("num_samples", [1, 2, 5, 7, 11])
def test_processes_have_equal_shares_and_no_photo_is_left_out(num_samples):
    shares = [indices(EpochBatchSampler(num_samples, 2, 0, 3, process)) for process in range(3)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    assert {index for share in shares for batch in share for index in batch} == set(range(num_samples))


def test_a_sampler_goes_on_where_it_is_told():
    sampler = EpochBatchSampler(11, 2, seed=1)
    sampler.set_position(4)
    whole = list(sampler)
    sampler.set_position(4, 3)
    assert list(sampler) == whole[3:]
    sampler.set_position(4, len(sampler))
    assert list(sampler) == []


def test_evaluation_counts_each_photo_once_over_all_processes():
    batches = [evaluation_batches(7, 2, 3, process) for process in range(3)]
    seen = [index for process in batches for batch in process for _, index in batch]
    assert sorted(seen) == list(range(7))


def test_seeds_depend_on_every_part_and_fit_a_generator():
    seeds = {derive_seed(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


@pytest.fixture
def photos(photo_table):
    processor = CharmImageProcessor(patch_size=4, max_num_patches=220)
    selection = {"patch_selection": "random"}
    rows = load_aesthetic_dataset("csv", photo_table, "train")
    return TokenizedDataset(rows, processor, "distribution", TrainingAugmentation(), selection, seed=2)


def test_a_photo_is_the_same_whenever_it_is_asked_for_in_an_epoch_and_another_in_the_next(photos):
    first, again, other = photos[0, 3], photos[0, 3], photos[1, 3]
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(again[name])) for name in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_a_batch_holds_tokens_labels_rated_scores_and_row_numbers(photos):
    batch = next(iter(make_loader(photos, [[(0, 2), (0, 5)]])))
    assert batch["pixel_values"].shape == (2, 189, 48)
    assert batch["labels"].shape == (2, 5)
    assert batch["labels"].sum(-1).tolist() == pytest.approx([1, 1])
    assert batch["index"].tolist() == [2, 5]
    expected = (batch["labels"] * torch.arange(1, 6)).sum(-1)
    assert torch.allclose(batch["scores"], expected)


def test_loading_leaves_the_global_generator_alone(photos):
    torch.manual_seed(7)
    expected = torch.random.get_rng_state()
    list(make_loader(photos, [[(0, 1)]]))
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_the_collator_pads_with_masked_tokens_and_keeps_the_rest(photos):
    long, short = photos[0, 0], {**photos[0, 1]}
    for name in ("pixel_values", "scale_ids", "patch_positions", "pixel_attention_mask"):
        short[name] = short[name][:5]
    batch = CharmDataCollator()([long, short])
    assert batch["pixel_attention_mask"].sum(-1).tolist() == [189, 5]
    assert torch.equal(batch["pixel_values"][1, :5], short["pixel_values"])
    assert not batch["pixel_values"][1, 5:].any()
    assert CharmDataCollator(pad_to=320)([short])["pixel_values"].shape[1] == 320


def test_the_collator_takes_what_the_processor_returns_for_one_photo(photos):
    tokens = photos.processor(photos.dataset[0]["image"])
    batch = CharmDataCollator()([{**tokens, "labels": 0.25}, {**tokens, "labels": 0.5}])
    assert torch.equal(batch["pixel_values"][1], tokens["pixel_values"][0])
    assert batch["spatial_shapes"].shape == (2, 2, 2)
    assert batch["labels"].tolist() == [0.25, 0.5]


def test_the_clock_tells_the_share_of_time_spent_waiting():
    clock = WaitClock()
    assert list(clock.watch(range(3))) == [0, 1, 2]
    assert 0 <= clock.waited <= clock.seconds
    assert 0 <= clock.share <= 1
