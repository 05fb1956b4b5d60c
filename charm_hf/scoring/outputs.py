"""Outputs that are no local table: tables elsewhere, Lance datasets, WebDataset shards with the scores inside.

A run always writes a local table, resumably; for these outputs it lies in the cache, and is delivered at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import remove_folder
from ..tables import Table, escape_bytes
from .storage import is_remote, open_file, written


LANCE, SHARD = ".lance", ".tar"
_MEMBER = "aesthetic.json"


def staged(output: str) -> Path:
    """Where a run writes its table: the output itself, or for one of another kind a file in the cache.

    Raises:
        ValueError: for a name of shards without a number in it.
    """
    suffix = Path(output).suffix.lower()
    if not is_remote(output) and suffix not in (LANCE, SHARD):
        return Path(output)
    if suffix == SHARD and not re.search(r"%0?\d*d", output):
        raise ValueError(f"{output!r}: shards need a number in their name, such as shards/%06d.tar.")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "charm_hf" / "runs"
    name = output if is_remote(output) else os.path.abspath(output)
    table = {LANCE: "scores.parquet", SHARD: "scores.jsonl"}.get(suffix, PurePosixPath(output).name)
    return cache / hashlib.sha256(name.encode()).hexdigest()[:16] / table


def write_output(table: Path, output: str, shards: Iterable[str]) -> None:
    """Bring a staged table to its output, and remove it.

    Args:
        table: what the run wrote.
        output: what the user asked for.
        shards: the sources, for an output of shards.

    Raises:
        ValueError: if shards are asked for, and a source is none.
        OSError: if the output cannot be written; the table stays.
    """
    if table == Path(output):
        return
    suffix = Path(output).suffix.lower()
    if suffix == LANCE:
        _write_lance(table, output)
    elif suffix == SHARD:
        rows = {row["path"]: row for row in Table(table).rows()}
        for number, shard in enumerate(shards):
            _write_shard(shard, rows, output % number)
    else:
        with written(output) as draft:
            shutil.copyfile(table, draft)
    remove_folder(table.parent)


def _write_lance(table: Path, output: str) -> None:
    import lance
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        lance.write_dataset(file.iter_batches(), output, schema=file.schema_arrow, mode="overwrite")


def _write_shard(source: str, rows: Mapping[str, Mapping[str, Any]], output: str) -> None:
    """Copy a shard, with one more member behind each scored sample: its row as JSON."""
    with (
        open_file(source) as file,
        tarfile.open(fileobj=file, mode="r|", errors="surrogateescape") as read,
        written(output) as draft,
        tarfile.open(draft, "w", errors="surrogateescape") as write,
    ):
        for member, content in _with_scores(read, escape_bytes(source), rows):
            write.addfile(member, content)


def _with_scores(
    read: tarfile.TarFile, name: str, rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    sample, row = "", None
    for member in read:
        path = PurePosixPath(member.name)
        key = str(path.parent / path.name.split(".", 1)[0])
        if key != sample and row is not None:
            yield _as_member(sample, row)
            row = None
        sample, row = key, rows.get(f"{name}/{escape_bytes(member.name)}", row)
        yield member, read.extractfile(member) if member.isfile() else None
    if row is not None:
        yield _as_member(sample, row)


def _as_member(sample: str, row: Mapping[str, Any]) -> tuple[tarfile.TarInfo, Any]:
    content = json.dumps({name: value for name, value in row.items() if name not in ("path", "key")}).encode()
    member = tarfile.TarInfo(f"{sample}.{_MEMBER}")
    member.size = len(content)
    return member, io.BytesIO(content)
