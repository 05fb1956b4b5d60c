"""The test mixins of the installed transformers, from its source archive on PyPI."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import transformers


PACKAGE = "transformers_mixins"
# What the mixins import from files that the archive leaves out, and what stands for it.
ABSENT = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": {}},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def fetch_mixins(cache: Path) -> Path:
    """Folder with the files, `cache/VERSION`; pip fetches the archive the first time.

    A development version has no archive: the newest release's stands for it.

    Raises:
        ConnectionError: if pip could not; the message is pip's.
    """
    version = transformers.__version__
    folder = cache / version
    if not (folder / "test_modeling_common.py").exists():
        wanted = "transformers" if "dev" in version else f"transformers=={version}"
        source = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(cache), wanted]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *source]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        archive = next(cache.glob("transformers-*.tar.gz"), None)
        if archive is None:
            raise ConnectionError(f"No source archive of {wanted} on PyPI: {done.stderr.strip()[-300:]}")
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive) as members:
            for member in members.getmembers():
                path = Path(member.name)
                if path.parts[1:-1] == ("tests",) and path.suffix == ".py":
                    (folder / path.name).write_bytes(members.extractfile(member).read())
        archive.unlink()
    return folder


def import_mixins(folder: Path, name: str) -> Any:
    """One of the fetched files as a module."""
    if PACKAGE not in sys.modules:
        _add_module(PACKAGE, {"__path__": [str(folder)]})
        for absent, content in ABSENT.items():
            _add_module(absent, content)
        # It would import transformers a second time, relative to a checkout's tests.
        transformers.utils.direct_transformers_import = lambda *_: transformers
    return importlib.import_module(f"{PACKAGE}.{name}")


def _add_module(name: str, content: dict[str, Any]) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    parent = name.rpartition(".")[0]
    if parent and parent not in sys.modules:
        _add_module(parent, {"__path__": []})
