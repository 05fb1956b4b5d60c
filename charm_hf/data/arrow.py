"""Arrow files that datasets are mapped from."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, Features

logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 1000


def default_cache_dir() -> Path:
    """The folder for mapped tables inside the cache of `datasets`."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "charm_hf"


def write_mapped(table: pa.Table, features: Features, cache_dir: Path) -> Dataset:
    """Write a table to a file named by its content and map that file; the same content is written once.

    A cache folder that cannot be written to costs a warning and the memory of the table.
    """
    table = table.cast(features.arrow_schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_PER_BATCH)
    content = sink.getvalue()
    path = cache_dir / f"{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    try:
        if not path.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cache_dir, suffix=".part", delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
    except OSError as error:
        logger.warning("The table stays in memory: %s cannot be written (%s).", path, error)
        return Dataset.from_buffer(content)
    return Dataset.from_file(str(path))
