"""Which checkpoints there are, asking no network: inside the package, in the cache, published by the authors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._registration import DEFAULT_REPOSITORY
from .released import PARAMETERS, RELEASED, RELEASED_LICENSE


_ASSETS = Path(__file__).resolve().parent / "assets"
_OURS = ("charm", "mmlq")


@dataclass(frozen=True)
class KnownCheckpoint:
    """One checkpoint.

    Attributes:
        model: what `--model` takes; empty for the one that is used where none is given.
        subfolder: what `--subfolder` takes.
        place: `"embedded"`, `"cached"` (pulled, or converted from pickles, earlier) or `"published"` (fetched and
            converted when it is first used).
        dataset: what it was trained on.
        encoder: the pretrained encoder, or the type of one.
        parameters: of the encoder, where only that is known.
        bytes: of its weights on this machine.
        license: SPDX name; empty if it is in the card alone.
        plcc, srcc, acc: what the paper reports for the data set, with DINOv2-small.
    """

    model: str
    place: str
    dataset: str = ""
    subfolder: str = ""
    encoder: str = ""
    parameters: int | None = None
    bytes: int | None = None
    license: str = ""
    plcc: float | None = None
    srcc: float | None = None
    acc: float | None = None


def list_checkpoints() -> list[KnownCheckpoint]:
    """All of them: embedded, cached, published."""
    embedded = [_describe(config, "", "embedded", license="apache-2.0") for config in _ASSETS.glob("*/config.json")]
    published = [
        KnownCheckpoint(
            model=DEFAULT_REPOSITORY,
            place="published",
            dataset=name,
            subfolder=name,
            encoder=known.base_model,
            parameters=PARAMETERS[known.base_model],
            license=RELEASED_LICENSE,
            plcc=known.numbers["plcc"],
            srcc=known.numbers["srcc"],
            acc=known.numbers["acc"],
        )
        for name, known in RELEASED.items()
    ]
    return [*(found for found in embedded if found), *_cached(), *published]


def _cached() -> Iterator[KnownCheckpoint]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    for config in sorted((Path(constants.HF_ASSETS_CACHE) / "charm_hf").glob("*/*/*/config.json")):
        if found := _describe(config, str(config.parent), "cached"):
            yield found
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        for revision in repository.revisions if repository.repo_type == "model" else ():
            for config in sorted(file.file_path for file in revision.files if file.file_name == "config.json"):
                subfolder = config.parent.relative_to(revision.snapshot_path).as_posix().removeprefix(".")
                name = f"{repository.repo_id}@{min(revision.refs, default=revision.commit_hash)}"
                if found := _describe(config, name.removesuffix("@main"), "cached", subfolder):
                    yield found


def _describe(config: Path, model: str, place: str, subfolder: str = "", license: str = "") -> KnownCheckpoint | None:
    """What a config says, if it is one of ours and its weights are there."""
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
        size = (config.parent / "model.safetensors").stat().st_size
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(facts, dict) or facts.get("model_type") not in _OURS:
        return None
    encoder = facts.get("backbone_config") or facts.get("vision_config")
    encoder = encoder if isinstance(encoder, dict) else {}
    return KnownCheckpoint(
        model=model,
        place=place,
        dataset=str(facts.get("dataset_name") or ""),
        subfolder=subfolder,
        encoder=str(encoder.get("_name_or_path") or encoder.get("model_type") or ""),
        bytes=size,
        license=license,
    )


__all__ = ["KnownCheckpoint", "list_checkpoints"]
