"""Fetch checkpoints: pull a repository into a folder, or resolve a name to a folder in the cache."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, cached_assets_path, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from .. import __version__
from .cards import (
    CARD_NAME,
    CardContext,
    conversion_text,
    find_base_model,
    read_config,
    render_card,
    render_repository_card,
)
from .layout import CONFIG_NAME, LICENSE_NAME, ROOT, assemble_repository
from .released import DEFAULT_DATASET, RELEASED, RELEASED_REPOSITORY


logger = logging.getLogger(__name__)
