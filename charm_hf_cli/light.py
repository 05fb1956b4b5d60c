"""The parts of `charm_hf` that need no model, without the seconds that `import charm_hf` takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def without_registration() -> Iterator[None]:
    """Import and run modules of `charm_hf` without its `__init__`, and so without transformers and torch.

    `import charm_hf` registers the package's classes with transformers: a promise to whoever imports it. Within this
    context the package is there but has not run, so that `charm_hf.look.report` can be imported alone. Afterwards
    all is as it was: the next `import charm_hf` is the whole one. Where that has happened already, nothing is done.
    """
    if "charm_hf" in sys.modules:
        yield
        return
    spec = find_spec("charm_hf")
    assert spec is not None, "charm_hf is not installed beside its command line"
    sys.modules["charm_hf"] = module_from_spec(spec)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "charm_hf"]:
            del sys.modules[name]
