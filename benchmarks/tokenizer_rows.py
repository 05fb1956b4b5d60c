"""The rows about the tokenizer: against the published one, and against decoding the JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import least_milliseconds, peak_mebibytes
from benchmarks.peer import Peer
from benchmarks.photos import decode, make_photo, unlike_photos
from benchmarks.table import Row
from charm_hf import CharmImageProcessor


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


def unlike_rows(folder: Path, environment: Path, repetitions: int) -> Iterator[Row]:
    """The least speed-up over the published tokenizer among ten pictures that have little in common."""
    paths = unlike_photos(folder)
    with Peer(environment) as peer:
        for selection in SELECTIONS:
            found = {}
            for name, path in paths.items():
                ours = least_milliseconds(partial(released(selection), path), repetitions=max(3, repetitions // 4))[0]
                theirs = peer.measure(path, selection, max(2, repetitions // 12))["milliseconds"]
                found[name] = theirs / ours, f"{theirs:.0f} ms / {ours:.1f} ms"
            worst = min(found, key=lambda name: found[name][0])
            ratio, detail = found[worst]
            others = ", ".join(f"{name} {found[name][0]:.1f}" for name in paths if name != worst)
            title = f"the worst of ten unlike pictures, {selection}: {worst}"
            yield Row(title, ratio, MEDIUM_SPEEDUP[selection], True, f"{detail}; {others}")


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
