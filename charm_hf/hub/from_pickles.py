"""Turn a repository that holds the authors' pickles into one that `from_pretrained` understands."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import cached_assets_path, hf_hub_download

from .. import __version__
from ..files import Lock, replaced_folder, sha256_of
from ..released import DEFAULT_DATASET, PAPER, RELEASED
from .cards import TEMPLATES, CardContext, read_config, render_card, render_repository_card
from .layout import CARD_NAME, CONFIG_NAME, LICENSE_NAME, assemble_repository
from .pull import RepositoryState, read_repository, split_revision


logger = logging.getLogger(__name__)


def convert_from_hub(
    repo_id: str,
    output_dir: str | os.PathLike,
    *,
    datasets: Sequence[str] | None = None,
    revision: str | None = None,
    default: str | None = None,
    token: str | None = None,
) -> str:
    """Fetch published pickles, convert each without running it, and write a whole repository, ready to be pushed.

    Args:
        repo_id: `owner/name`, or `owner/name@revision`; the authors' is `FatemehBehrad/Charm`.
        output_dir: new or empty folder: a default checkpoint at the root, a subfolder for each dataset, the code once,
            model cards, `LICENSE` and `NOTICE`.
        datasets: which; all whose pickles the repository holds if not given.
        revision: branch, tag or commit; `main` if not given.
        default: which one to put at the root too; AVA's if it is among them, else the first.
        token: the logged-in user's if not given.

    Returns:
        `output_dir`.

    Raises:
        FileExistsError: if `output_dir` is not empty; nothing is downloaded then.
        ValueError: if the repository does not hold a dataset's pickles, or the default is not converted.
        Whatever the download or `convert_legacy_checkpoint` raises.
    """
    output = Path(output_dir)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: give a new folder.")
    repo_id, at = split_revision(repo_id)
    state = read_repository(repo_id, revision or at, token)
    chosen = [_choose(state, dataset) for dataset in datasets] if datasets else state.pickled_datasets
    if not chosen:
        raise ValueError(f"{repo_id} holds none of the published pickles: {', '.join(_released_names())}.")
    default = default or (DEFAULT_DATASET if DEFAULT_DATASET in chosen else chosen[0])
    output.parent.mkdir(parents=True, exist_ok=True)
    work = tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-")
    with work, replaced_folder(output) as whole:
        converted = {dataset: Path(work.name) / dataset for dataset in chosen}
        sources = {dataset: _convert(state, dataset, folder, token) for dataset, folder in converted.items()}
        assemble_repository(converted, whole, default=default)
        _write_documents(whole, state, sources, default)
    return str(output)


def convert_into_cache(state: RepositoryState, dataset: str | None, token: str | None = None) -> str:
    """Convert one published checkpoint once for this machine; later calls find the folder.

    Args:
        state: a repository that holds pickles.
        dataset: which; AVA's if not given and there, or the only one.
        token: the logged-in user's if not given.
    """
    dataset = _choose(state, dataset)
    # Another version of the converter may do better, and another commit may hold other weights.
    cache = cached_assets_path("charm_hf", state.repo_id, f"{state.commit}-{__version__}")
    target = cache / dataset
    with Lock(cache / f"{dataset}.lock").acquire(patience=None):
        if not (target / CONFIG_NAME).is_file():
            logger.warning(
                "%s holds pickles only. Converting %s, without running it, into %s: this is done once. To publish the "
                "result: `charm-hf convert --from-hub %s --output DIR`, then `charm-hf push DIR %s`.",
                state.repo_id,
                RELEASED[dataset].weights,
                target,
                state.repo_id,
                state.repo_id,
            )
            with replaced_folder(target) as unfinished:
                _convert(state, dataset, unfinished, token)
    return str(target)


def _choose(state: RepositoryState, dataset: str | None) -> str:
    held = state.pickled_datasets
    if dataset is None and len(held) == 1 and not state.cached:
        return held[0]
    if dataset is None and DEFAULT_DATASET not in held:
        raise ValueError(f"{state.repo_id} has several checkpoints: choose one with `dataset`: {', '.join(held)}.")
    dataset = dataset or DEFAULT_DATASET
    if dataset not in RELEASED:
        raise ValueError(f"Unknown dataset {dataset!r}: expected one of {', '.join(RELEASED)}.")
    if dataset not in held:
        raise ValueError(f"{state.repo_id} does not hold {RELEASED[dataset].weights}; it has {', '.join(held)}.")
    return dataset


def _released_names() -> list[str]:
    return sorted({name for known in RELEASED.values() for name in (known.weights, known.positions)})


def _convert(state: RepositoryState, dataset: str, target: Path, token: str | None) -> str:
    """Fetch and convert one checkpoint; returns what it was made of, in words."""
    from ..legacy import convert_legacy_checkpoint

    names = (RELEASED[dataset].weights, RELEASED[dataset].positions)
    weights, positions = (hf_hub_download(state.repo_id, name, revision=state.revision, token=token) for name in names)
    logger.info("Converting %s of %s.", names[0], state.repo_id)
    convert_legacy_checkpoint(weights, target, dataset=dataset, position_embeddings=positions)
    described = " and ".join(
        f"`{name}` (sha256 {sha256_of(path)})" for name, path in zip(names, (weights, positions), strict=True)
    )
    return f"{described} of {state.repo_id} at commit {state.commit}, with charm_hf {__version__}"


def _write_documents(folder: Path, state: RepositoryState, sources: dict[str, str], default: str) -> None:
    configs = {dataset: read_config(folder / dataset) for dataset in sources}
    for dataset, source in sources.items():
        context = CardContext(state.repo_id, subfolder=dataset, conversion=source)
        card = render_card(configs[dataset], context, published=True)
        (folder / dataset / CARD_NAME).write_text(str(card), encoding="utf-8")
    listed = "\n".join(f"- `{dataset}`: {source}." for dataset, source in sources.items())
    card = render_repository_card(configs, default, state.repo_id, f"Converted from the authors' pickles:\n\n{listed}")
    (folder / CARD_NAME).write_text(str(card), encoding="utf-8")
    shutil.copyfile(TEMPLATES / LICENSE_NAME, folder / LICENSE_NAME)
    notice = (TEMPLATES / "NOTICE").read_text(encoding="utf-8")
    (folder / "NOTICE").write_text(
        notice.format(paper=PAPER["url"], repo_id=state.repo_id, commit=state.commit, version=__version__),
        encoding="utf-8",
    )
