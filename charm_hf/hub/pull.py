"""Fetch checkpoints: pull a repository into a folder, or resolve a name to a checkpoint folder on this machine."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ..files import sha256_of
from ..released import RELEASED
from .cards import read_config
from .layout import CONFIG_NAME, ROOT, find_checkpoints, is_published


logger = logging.getLogger(__name__)

_SHA256 = re.compile("[0-9a-f]{64}")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")


@dataclass(frozen=True)
class RepositoryState:
    """A repository at one commit: what it holds; of one that is only `cached`, as far as is known."""

    repo_id: str
    revision: str | None
    commit: str
    files: tuple[str, ...]
    cached: bool = False

    @property
    def where(self) -> str:
        """How errors call it."""
        return f"{self.repo_id}{_at(self.revision)}"

    @property
    def checkpoints(self) -> list[str]:
        """Names of the subfolders that hold a configuration and safetensors, `"."` for the root."""
        configured, weighted = (
            {file.rpartition("/")[0] or ROOT for file in self.files if file.endswith(ending) and file.count("/") <= 1}
            for ending in (CONFIG_NAME, ".safetensors")
        )
        return sorted(configured & weighted)

    @property
    def pickled_datasets(self) -> list[str]:
        """Datasets whose published pickles the repository holds."""
        return [name for name, known in RELEASED.items() if known.weights in self.files]


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `owner/name@revision`; a local path is left whole."""
    if "@" not in name or Path(name).exists():
        return name, None
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or None


def read_repository(repo_id: str, revision: str | None = None, token: str | None = None) -> RepositoryState:
    """Ask the Hub what a repository holds, or the cache where the Hub cannot be reached.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, HfHubHTTPError: as the Hub answered.
        LocalEntryNotFoundError: not reachable, and nothing in the cache.
    """
    try:
        info = HfApi(token=token).model_info(repo_id, revision=revision)
        names = (sibling.rfilename for sibling in info.siblings or ())
        files = tuple(name for name in names if not name.startswith((".", "/")))  # `../` reaches elsewhere
        return RepositoryState(repo_id, revision, str(info.sha), files)
    except HfHubHTTPError:
        raise
    except (OfflineModeIsEnabled, HTTPError) as error:
        return _read_cached_repository(repo_id, revision, error)


def _read_cached_repository(repo_id: str, revision: str | None, reason: Exception) -> RepositoryState:
    try:
        # No pattern: nothing is fetched or checked for completeness, only the folder is looked up.
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError as error:
        raise LocalEntryNotFoundError(
            f"{repo_id}{_at(revision)} is not in the cache and no folder here, and the Hub cannot be reached "
            f"({reason}). Fetch it once with a connection (`charm-hf pull {repo_id}{_at(revision)} DIR`), or name a "
            "local folder."
        ) from error
    files = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return RepositoryState(repo_id, revision, folder.name, files, cached=True)


def _at(revision: str | None) -> str:
    return f"@{revision}" if revision else ""


def pull_checkpoint(
    repo_id: str,
    folder: str | os.PathLike,
    *,
    revision: str | None = None,
    dataset: str | None = None,
    token: str | None = None,
) -> str:
    """Copy a repository's checkpoints, code and cards into a folder. Pickles are left behind.

    Args:
        repo_id: `owner/name`, or `owner/name@revision`.
        folder: new, empty, or the target of an earlier pull, whose files are then brought up to date.
        revision: branch, tag or commit; `main` if not given.
        dataset: only this checkpoint's subfolder, with the code at the root.
        token: the logged-in user's if not given.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the repository does not have the checkpoint, or no safetensors; or what arrived is not what the
            Hub has, by its SHA-256, and is then removed again.
        RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError: as `read_repository`.
    """
    repo_id, at = split_revision(repo_id)
    revision = revision or at
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".cache" / "huggingface").is_dir():
        raise FileExistsError(f"{folder} holds files that no pull wrote: give a new or empty folder.")
    state = read_repository(repo_id, revision, token)
    if not state.checkpoints:
        raise _no_checkpoint(state)
    if dataset and dataset not in state.checkpoints:
        raise _no_such_checkpoint(state.where, state.checkpoints, dataset)
    wanted = _wanted_files(state, [dataset] if dataset else state.checkpoints)
    _download(state, wanted, token, folder)
    if not state.cached:
        _require_intact(state, wanted, token, folder)
    return str(folder)


def resolve_checkpoint(
    name: str | os.PathLike, *, dataset: str | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Find a checkpoint on this machine, fetching it into the cache if need be.

    A repository that still holds only the authors' pickles is converted once, without running them, and the result
    kept in the cache (`HF_ASSETS_CACHE`); a warning says so.

    Args:
        name: local folder, `owner/name`, or `owner/name@revision`.
        dataset: which of a repository's checkpoints; the one at the root if not given.
        revision: branch, tag or commit; `main` if not given.
        token: the logged-in user's if not given.

    Returns:
        A local folder with config, weights and preprocessor config, for `from_pretrained` and `pipeline`. After
        `import charm_hf` neither needs the code files, which lie one folder up when the checkpoint is in a subfolder.

    Raises:
        ValueError: there is no such checkpoint; the message lists what there is.
        RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError: as `read_repository`.
    """
    if Path(name).is_dir():
        return _resolve_local(Path(name), dataset)
    repo_id, at = split_revision(os.fspath(name))
    if repo_id.count("/") > 1 or repo_id.startswith((".", "~", "/")):
        raise ValueError(f"{repo_id} is neither a folder on this machine nor the name of a repository (`owner/name`).")
    state = read_repository(repo_id, revision or at, token)
    if not state.checkpoints and state.pickled_datasets:
        from .from_pickles import convert_into_cache

        return convert_into_cache(state, dataset, token)
    if not state.checkpoints:
        raise _no_checkpoint(state)
    place = dataset if dataset in state.checkpoints else ROOT
    if place not in state.checkpoints:
        raise _no_such_checkpoint(state.where, state.checkpoints, dataset)
    if place == ROOT and dataset:
        config = hf_hub_download(
            repo_id, CONFIG_NAME, revision=state.revision, local_files_only=state.cached, token=token
        )
        if read_config(Path(config).parent).get("dataset_name") != dataset:
            raise _no_such_checkpoint(state.where, state.checkpoints, dataset)
    return str(Path(_download(state, _wanted_files(state, [place]), token)) / place)


def _resolve_local(folder: Path, dataset: str | None) -> str:
    checkpoints = find_checkpoints(folder)
    if dataset in checkpoints:
        return str(folder / str(dataset))
    if ROOT in checkpoints and (dataset is None or read_config(folder).get("dataset_name") == dataset):
        return str(folder)
    raise _no_such_checkpoint(str(folder), checkpoints, dataset)


def _download(state: RepositoryState, wanted: list[str], token: str | None, target: Path | None = None) -> str:
    started = time.time()
    folder = snapshot_download(
        state.repo_id,
        revision=state.commit if target else state.revision,
        local_dir=target,
        local_files_only=state.cached,
        allow_patterns=[_escape(file) for file in wanted],
        token=token,
    )
    if target is None:
        _require_arrived_intact(state, [Path(folder) / file for file in wanted], started)
    return folder


def _require_arrived_intact(state: RepositoryState, files: list[Path], started: float) -> None:
    """Compare large files that were fetched into the cache just now with the SHA-256 that they are named by there."""
    for file in files:
        # The link names the SHA-256; what it leads to may be a link too, to a file that xet names in its own way.
        digest = os.path.basename(os.readlink(file)) if file.is_symlink() else ""
        arrived = file.is_file() and file.stat().st_mtime >= started - 1
        if arrived and _SHA256.fullmatch(digest) and sha256_of(file) != digest:
            file.resolve().unlink()
            file.unlink(missing_ok=True)
            raise _damaged(state, [file.name])


def _damaged(state: RepositoryState, names: list[str]) -> ValueError:
    return ValueError(
        f"What arrived of {state.where} is not what the Hub has: {', '.join(names)} had another SHA-256 and was "
        "removed. Try again; if it happens again, something between here and the Hub changes files."
    )


def _require_intact(state: RepositoryState, wanted: list[str], token: str | None, folder: Path) -> None:
    """Compare what arrived with the hashes that the Hub lists for the commit."""
    found = HfApi(token=token).verify_repo_checksums(state.repo_id, revision=state.commit, local_dir=folder)
    damaged = [mismatch["path"] for mismatch in found.mismatches if mismatch["path"] in wanted]
    for name in damaged:
        (folder / name).unlink()
    if damaged:
        raise _damaged(state, damaged)


def _wanted_files(state: RepositoryState, places: list[str]) -> list[str]:
    """Names of the files to fetch: the wanted checkpoints, and code, card and licence at the root."""
    wanted = []
    for file in state.files:
        place, _, name = file.rpartition("/")
        shared = not place and not name.endswith((".json", ".safetensors"))
        if is_published(name) and (shared or (place or ROOT) in places):
            wanted.append(file)
    return wanted


def _escape(name: str) -> str:
    """Quote what `fnmatch` would read as a pattern."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _no_checkpoint(state: RepositoryState) -> ValueError:
    pickles = [file for file in state.files if file.endswith(PICKLE_SUFFIXES)]
    where = state.where
    if state.pickled_datasets:
        return ValueError(
            f"{where} holds pickles only ({', '.join(pickles)}), which are not pulled. Make safetensors of them with "
            f"`charm-hf convert --from-hub {where} --output DIR`."
        )
    if pickles:
        return ValueError(
            f"{where} holds pickles ({', '.join(pickles)}), none under a published name. Download one and convert it: "
            "`charm-hf convert FILE.pth DIR --dataset NAME --position-embeddings POSITIONS.pt`."
        )
    return ValueError(
        f"{where} holds no checkpoint: there is no {CONFIG_NAME} with safetensors beside it, in it or its subfolders."
    )


def _no_such_checkpoint(where: str, checkpoints: list[str], dataset: str | None) -> ValueError:
    held = ", ".join("the root" if place == ROOT else place for place in checkpoints)
    wanted = f"no checkpoint {dataset!r}" if dataset else "no checkpoint at its root"
    return ValueError(f"{where} has {wanted}: it holds {held}. Choose with `dataset`.")
