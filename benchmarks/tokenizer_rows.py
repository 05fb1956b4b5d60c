"""The rows about the tokenizer: against the published one, and against decoding the JPEG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import least_milliseconds, peak_mebibytes
from benchmarks.peer import Peer
from benchmarks.photos import decode, make_photo, wheel_photo
from benchmarks.table import Row
from charm_hf import CharmImageProcessor
from charm_hf.models.image_loading_charm import load_image, rgb_planes
from charm_hf.models.patch_selection_charm import plan_tokens
from charm_hf.models.pixel_tokens_charm import PIXEL_IMPORTANCE, best_importance


SELECTIONS = ("frequency", "gradient", "entropy", "random")
MEDIUM_SPEEDUP = dict(zip(SELECTIONS, (9.0, 9.0, 8.0, 5.0), strict=True))
MEDIUM_SHARE = dict(zip(SELECTIONS, (1.1, 1.0, 1.0, 0.75), strict=True))
LARGE_SPEEDUP = dict(zip(SELECTIONS, (8.0, 8.0, 8.0, 4.0), strict=True))


def released(selection: str) -> CharmImageProcessor:
    """The processor that makes the published tokens."""
    return CharmImageProcessor.for_dataset("aadb", patch_selection=selection, overflow="keep", do_normalize=False)


def medium_rows(folder: Path, environment: Path, repetitions: int) -> Iterator[Row]:
    """A 1024×768 JPEG from its path."""
    path = make_photo(folder, 1024, 768)
    with Peer(environment) as peer:
        for selection in SELECTIONS:
            processor = released(selection)
            ours, decoding = least_milliseconds(
                partial(processor, path), partial(decode, path), repetitions=repetitions
            )
            theirs = peer.measure(path, selection, max(3, repetitions // 5))
            tokens = processor(path)["pixel_values"].shape[1]
            # The published sequence has a CLS slot.
            if theirs["tokens"] not in (tokens, tokens + 1):
                raise AssertionError(f"{selection}: {theirs['tokens']} published tokens, {tokens} of ours.")
            name = f"1024×768, {selection}"
            detail = f"{theirs['milliseconds']:.1f} ms / {ours:.2f} ms"
            yield Row(
                f"{name}: speed-up over the published",
                theirs["milliseconds"] / ours,
                MEDIUM_SPEEDUP[selection],
                True,
                detail,
            )
            detail = f"{ours - decoding:.2f} ms / {decoding:.2f} ms"
            yield Row(
                f"{name}: without decoding, of decoding",
                (ours - decoding) / decoding,
                MEDIUM_SHARE[selection],
                False,
                detail,
            )


def bound_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """What the bound of `frequency` saves, from a photo of sharp and smooth parts to one that is all alike."""
    generator = np.random.default_rng(0)
    photos = {
        "the photo of all rows": make_photo(folder, 1024, 768),
        "stars on black": wheel_photo("hubble_deep_field.jpg"),
        "a retina": wheel_photo("retina.jpg"),
        "noise": Image.fromarray(generator.integers(0, 256, (768, 1024, 3), dtype=np.uint8)),
    }
    for name, photo in photos.items():
        image = load_image(photo)
        plan = plan_tokens(image.height, image.width, 14, 2, 0.5, 1024)
        planes, size, count = rgb_planes(image, plan.height, plan.width), plan.sizes[-1], plan.regions_per_scale[-1]
        some, every = least_milliseconds(
            partial(best_importance, "frequency", planes, size, count),
            partial(PIXEL_IMPORTANCE["frequency"], planes, size),
            repetitions=max(3, repetitions // 2),
        )
        computed = (best_importance("frequency", planes, size, count) > -np.inf).mean()
        detail = f"{some:.1f} ms / {every:.1f} ms, {computed:.0%} of {math.prod(plan.region_grid)} regions transformed"
        yield Row(f"frequency, bounded, of all regions transformed: {name}", some / every, 1.0, False, detail)


def large_rows(folder: Path, environment: Path, repetitions: int) -> Iterator[Row]:
    """A 4000×3000 JPEG: shrunk to 1024 tokens, and with all its tokens."""
    path = make_photo(folder, 4000, 3000)
    shrinking = CharmImageProcessor(max_num_patches=1024, overflow="resize", reduced_decoding=True)
    ours, decoding = least_milliseconds(
        lambda: shrinking(path), lambda: decode(path), repetitions=max(3, repetitions // 4)
    )
    detail = f"{ours:.1f} ms / {decoding:.1f} ms"
    yield Row("12 megapixels, resize: of decoding", ours / decoding, 1.2, False, detail)
    with Peer(environment) as peer:
        for selection in SELECTIONS:
            processor = released(selection)
            ours = least_milliseconds(partial(processor, path), repetitions=max(3, repetitions // 6))[0]
            memory = peak_mebibytes(partial(processor, path))
            theirs = peer.measure(path, selection, 2)
            name = f"12 megapixels, keep, {selection}"
            detail = f"{theirs['milliseconds']:.0f} ms / {ours:.0f} ms"
            yield Row(
                f"{name}: speed-up over the published",
                theirs["milliseconds"] / ours,
                LARGE_SPEEDUP[selection],
                True,
                detail,
            )
            detail = f"{memory:.0f} MiB / {theirs['mebibytes']:.0f} MiB"
            yield Row(f"{name}: peak memory, of the published", memory / theirs["mebibytes"], 0.5, False, detail)
