"""Transformers' own tests, from its source archive, on our classes: nothing fails but what the table explains."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest
from transformers_tests import fetch_mixins


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # three quarters of a minute of processor time

TESTERS = Path(__file__).with_name("testers.py")
# Which tests of `testers.py` may fail, and why. Nothing here is a defect.
EXPECTED = {
    # Heads follow from the ratings.
    "*::test_config_with_num_labels": "the number of labels follows from the bins and cannot be set apart from them",
    "*::test_can_load_ignoring_mismatched_shapes": "it asks for 42 labels beside ten bins",
    "*::test_problem_types": "labels are ratings or distributions of ratings; there are no classes",
    # Nothing is made up.
    "*::test_correct_missing_keys": "a checkpoint without a head is refused unless a new one is asked for",
    "*::test_model_weights_reload_no_missing_tied_weights": "a checkpoint without weights is refused",
    "TestCharm*::test_init_weights_can_init_buffers": "`mask_token`, which nothing reads, is never begun anew",
    # Attentions.
    "TestCharm*::test_capture_outputs_decorator": "attentions that sdpa does not compute are refused, not left out",
    "TestCharm*::test_model_outputs_equivalence": "the same",
    "TestMmlqModels::test_attention_outputs": "attentions have a name for each modality",
    "TestMmlqModels::test_retain_grad_hidden_states_attentions": "the same",
    # Inputs.
    "TestCharm*::test_model_get_set_embeddings": "patches have no vocabulary, as in native vision models",
    "TestCharm*::test_eager_matches_sdpa_inference*": "it keeps the pixels alone; a token needs its place",
    "*::test_get_image_features_*": "it gives the pooled features alone, from all inputs of a token",
    # Photos are read in one way.
    "*::test_call_numpy_4_channels": "every photo becomes RGB: `do_convert_rgb=False` is refused",
    "*::test_image_processor_from_dict_with_kwargs_has_attributes": "the same",
    "*::test_new_models_require_torchvision_backend": "one backend, one score: Pillow's",
    "TestMmlqProcessor::test_processor_text_has_no_visual": "photos come in one list, not in lists of lists",
    # Arguments of a call.
    "TestMmlqProcessor::test_structured_kwargs_nested_from_dict_*": "it passes `common_kwargs`, which is deprecated",
    "TestMmlqProcessor::test_subprocessor_defaults_preserved_by_kwargs_*": "padding is the call's alone",
}


def run_testers(cache: Path, folder: Path) -> dict[str, str | None]:
    """What failed by `Class::test`, with the message; `None` for what passed. What was skipped is left out."""
    found = folder / "found.xml"
    # A configuration of its own: the mixins have markers that ours does not know.
    options = ["-c", os.devnull, "--rootdir", str(TESTERS.parent), "-q", "-p", "no:cacheprovider", "--timeout", "120"]
    options += ["--tb", "line"]  # long ones of what may fail take as long as the tests
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"TRANSFORMERS_TESTS": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", *options, "--junitxml", str(found), str(TESTERS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return _read_outcomes(found)


def _read_outcomes(path: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname').rpartition('.')[2]}::{case.get('name')}"
        failures = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        if failures:
            found[name] = failures[0]
        elif case.find("skipped") is None:
            found.setdefault(name, None)
    return found


def test_nothing_fails_but_what_the_table_explains(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cache = request.config.cache.mkdir("transformers-tests")
    try:
        fetch_mixins(cache)
    except ConnectionError as error:
        pytest.skip(str(error))
    outcomes = run_testers(cache, tmp_path)
    failed = {name: message for name, message in outcomes.items() if message is not None}
    unexplained = [name for name in failed if not any(fnmatch(name, pattern) for pattern in EXPECTED)]
    assert {name: failed[name][:300] for name in unexplained} == {}
    assert [pattern for pattern in EXPECTED if not any(fnmatch(name, pattern) for name in failed)] == []
    assert len(outcomes) - len(failed) > 250
