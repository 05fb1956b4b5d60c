"""Push a checkpoint folder: checked first, sent once, committed in one piece or not at all."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from ..models.checkpoint_charm import LICENSE, MINIMUM_TRANSFORMERS, complete_card
from .cards import EVAL_RESULTS_NAME, CardContext, read_card, read_config, read_results, render_card
from .layout import ASSETS, CARD_NAME, CONFIG_NAME, HANDLER_NAME, ROOT, find_checkpoints, list_published_files
from .verify import verify_checkpoints


logger = logging.getLogger(__name__)

MAIN = "main"
_UNCHANGED = "Its files are as they were before."
_COMMIT_BROKEN_OFF = "Its files change by one commit, which was taken whole or not at all."


class PushError(RuntimeError):
    """A push that did not happen; the message says why, what state the remote is in and what to run."""


def push_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    commit_message: str | None = None,
    license: str = LICENSE,
    token: str | None = None,
) -> CommitInfo:
    """Publish a folder of checkpoints, laid out as in `charm_hf.hub.layout`, on the Hub.

    The folder is first loaded in a clean process, which scores one photo (`verify_checkpoints`). Weights that the Hub
    already holds are not sent again; the rest goes up first and becomes visible by one commit at the end, so that a
    push that fails leaves the remote's files as they were. Remote files that the folder lacks stay. A missing
    `README.md` is written from a template, a given one is completed with the metadata that it lacks; `handler.py` and
    `requirements.txt`, by which Inference Endpoints run the checkpoint, are added where there are none. Files that are
    no part of a checkpoint are left out, and absolute paths in configurations are cut to their last part.

    Args:
        folder: holds `config.json` and safetensors, at its root or in subfolders.
        repo_id: `name` or `owner/name`; created if there is none.
        private: create it as private. An existing public repository is refused.
        revision: branch; created from `main` if there is none. `main` if not given.
        create_pr: open a pull request against `main` instead of committing to it.
        tag: name the new commit.
        commit_message: first line of the commit.
        license: for a card that names none.
        token: the logged-in user's if not given.

    Returns:
        The commit; `pr_url` is set for a pull request.

    Raises:
        CheckpointError: the checkpoint is not fit to be published.
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: contradicting options, a card that cannot be read, or a symbolic link among the files.
        PushError: the Hub refused, or could not be reached.
    """
    folder = Path(folder)
    if create_pr and (tag or revision not in (None, MAIN)):
        raise ValueError("A pull request goes to `main` and cannot be tagged: give `create_pr` without them.")
    list_published_files(folder)  # a symbolic link is refused before its code is run
    verify_checkpoints(folder)
    command = _command(folder, repo_id, private, revision, create_pr, tag)
    api = HfApi(token=token, library_name="charm-hf")
    with _explained(repo_id, command):
        repo_id = _prepare_repository(api, repo_id, private, tag)
        with _branch(api, repo_id, revision) as branch:
            head = api.repo_info(repo_id, revision=branch).sha
            operations = _additions(api, folder, repo_id, branch, license)
            _send_distinct(api, repo_id, operations, branch, create_pr)
            with _explained(repo_id, command, broken_off=_COMMIT_BROKEN_OFF):
                commit = api.create_commit(
                    repo_id,
                    operations,
                    commit_message=commit_message or "Upload checkpoint with charm-hf",
                    revision=branch,
                    parent_commit=head,
                    create_pr=create_pr,
                )
    if commit.oid == head:
        logger.info("%s already holds exactly these files: nothing was committed.", repo_id)
    if tag:
        done = f"The files were committed as {commit.oid}, only the tag is missing."
        with _explained(repo_id, command, refused=done, broken_off=done):
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit


def _prepare_repository(api: HfApi, repo_id: str, private: bool, tag: str | None) -> str:
    """Create the repository if need be; its full name. Refuses what could only fail after the upload."""
    repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id).private:
        raise PushError(
            f"{repo_id} already exists and is public, but --private was asked for. Nothing was sent. Make it private "
            "in its settings on the Hub first, or leave the option out."
        )
    if tag and tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}:
        raise PushError(f"{repo_id} already has a tag {tag!r}. Nothing was sent. Choose another name.")
    return repo_id


@contextmanager
def _branch(api: HfApi, repo_id: str, revision: str | None) -> Iterator[str]:
    """The branch to commit to; one that had to be created is removed again if the push fails."""
    branch = revision or MAIN
    known = {ref.name for ref in api.list_repo_refs(repo_id).branches}
    created = branch not in known and not branch.startswith("refs/pr/")
    if created:
        api.create_branch(repo_id, branch=branch)
    try:
        yield branch
    except BaseException:
        if created:
            _try_to_delete_branch(api, repo_id, branch)
        raise


def _try_to_delete_branch(api: HfApi, repo_id: str, branch: str) -> None:
    try:
        api.delete_branch(repo_id, branch=branch)
    except HTTPError as error:
        logger.warning("The branch %s, created for this push, could not be removed: %s", branch, error)


def _additions(api: HfApi, folder: Path, repo_id: str, branch: str, license: str) -> list[CommitOperationAdd]:
    push, leave = list_published_files(folder)
    if leave:
        logger.warning("Left out, being no part of a checkpoint: %s", ", ".join(leave))
    card = _card(api, folder, repo_id, branch, license)
    contents = {name: _content(folder / name) for name in push if name != CARD_NAME}
    contents[CARD_NAME] = str(card).encode()
    contents.setdefault(HANDLER_NAME, str(ASSETS / HANDLER_NAME))
    contents.setdefault("requirements.txt", f"transformers>={MINIMUM_TRANSFORMERS}\n".encode())
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]


def _content(path: Path) -> bytes | str:
    """What to send of a file: its path, or in the place of a configuration that tells of this machine another one."""
    if not path.name.endswith((CONFIG_NAME, EVAL_RESULTS_NAME)):
        return str(path)
    told = json.loads(path.read_text(encoding="utf-8"))
    portable = _without_paths(told)
    return str(path) if portable == told else (json.dumps(portable, indent=2) + "\n").encode()


def _without_paths(value: Any) -> Any:
    """Cut absolute paths, which mean nothing elsewhere and are nobody else's business, to their last part."""
    if isinstance(value, dict):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    path = next((kind(value) for kind in (PurePosixPath, PureWindowsPath) if _is_path(value, kind)), None)
    return value if path is None else path.name


def _is_path(value: Any, kind: type[PurePath]) -> bool:
    return isinstance(value, str) and kind(value).is_absolute() and len(kind(value).parts) > 2


def _card(api: HfApi, folder: Path, repo_id: str, branch: str, license: str) -> ModelCard:
    """The folder's own card, else the one on the Hub, with missing metadata filled in; else one from the template."""
    checkpoint = find_checkpoints(folder)[0]
    where = folder / checkpoint
    subfolder = "" if checkpoint == ROOT else checkpoint
    context = CardContext(repo_id, subfolder=subfolder, results=read_results(where), license=license)
    rendered = render_card(read_config(where), context)
    known = vars(rendered.data)
    if (folder / CARD_NAME).is_file():
        return complete_card(read_card(folder / CARD_NAME), known)
    try:
        card = read_card(api.hf_hub_download(repo_id, CARD_NAME, revision=branch))
    except RemoteEntryNotFoundError:
        return rendered
    if context.results:  # what the card on the Hub says was measured is about other weights
        card.data["eval_results"] = card.data["model_name"] = None
    return complete_card(card, known)


def _send_distinct(
    api: HfApi, repo_id: str, operations: list[CommitOperationAdd], branch: str, create_pr: bool
) -> None:
    """Send one file of each content; the commit then finds the copies already there and does not send them again."""
    by_size = defaultdict(list)
    for operation in operations:
        by_size[operation.upload_info.size].append(operation)
    distinct: dict[bytes | int, CommitOperationAdd] = {}
    for size, alike in by_size.items():
        for operation in alike:
            key = operation.upload_info.sha256 if len(alike) > 1 else size
            distinct.setdefault(key, operation)
    api.preupload_lfs_files(repo_id, list(distinct.values()), revision=branch, create_pr=create_pr, free_memory=False)


def _command(folder: Path, repo_id: str, private: bool, revision: str | None, create_pr: bool, tag: str | None) -> str:
    words = ["charm-hf", "push", str(folder), repo_id]
    words += ["--private"] * private + ["--create-pr"] * create_pr
    words += ["--revision", revision] if revision else []
    words += ["--tag", tag] if tag else []
    return shlex.join(words)


@contextmanager
def _explained(
    repo_id: str, command: str, *, refused: str = _UNCHANGED, broken_off: str = _UNCHANGED
) -> Iterator[None]:
    """Turn what the client raises into a `PushError` that a person can act on.

    `refused` and `broken_off` say what state the repository is in after an answer that is an error, and after none.
    """
    try:
        yield
    except HfHubHTTPError as error:
        raise PushError(f"{_reason(error, repo_id)} {refused}\nRun again: {command}\n({error})") from error
    except (PushError, ValueError):
        raise
    except Exception as error:  # the client raises what its transports raise: of HTTP, of files, of xet
        raise PushError(
            f"The push to {repo_id} broke off: {error}. {broken_off} What was sent is kept by the Hub and not sent "
            f"again.\nRun again: {command}"
        ) from error


def _reason(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return "The Hub did not accept the token: log in with `hf auth login`, or set HF_TOKEN to one that may write."
    if status == 403:
        return f"The token may not write to {repo_id}: use one that may, or open a pull request with --create-pr."
    if status == 412:
        return (
            f"Someone else committed to {repo_id} while this push ran: look at what changed. Nothing was overwritten."
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no repository {repo_id}, or the token may not see it."
    return f"The Hub answered with an error ({status})."
