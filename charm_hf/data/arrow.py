"""Arrow files that datasets are mapped from."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetInfo, NamedSplit
from datasets.table import InMemoryTable, MemoryMappedTable

from ..files import write_bytes


logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 1000


def default_cache_dir() -> Path:
    """The folder for mapped tables inside the cache of `datasets`."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "charm_hf"


def write_mapped(table: pa.Table, info: DatasetInfo, split: NamedSplit, cache_dir: Path) -> Dataset:
    """Write a table to a file named by its content and map that file; the same content is written once.

    Its columns are those of `info.features`. A cache folder that cannot be written to costs a warning and the memory
    of the table.
    """
    table = table.cast(info.features.arrow_schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_PER_BATCH)
    content = sink.getvalue()
    key = hashlib.sha256(content).hexdigest()[:32]
    path = cache_dir / f"{key}.arrow"
    try:
        if not path.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            write_bytes(path, memoryview(content))
    except OSError as error:
        logger.warning("The table stays in memory: %s cannot be written (%s).", path, error)
        return Dataset(InMemoryTable.from_buffer(content), info=info, split=split, fingerprint=key)
    # Fingerprinted by content: `Dataset.from_file` takes the file's time, and processes would not share cached maps.
    return Dataset(MemoryMappedTable.from_file(str(path)), info=info, split=split, fingerprint=key)
