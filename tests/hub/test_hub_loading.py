"""What people do with a repository: load it by name, subfolder and revision, with the package and without."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_fixtures import hub_environment
from hub_server import HubServer
from huggingface_hub import ModelCard
from support import photo_path, tiny_model, tiny_processor
from transformers import AutoImageProcessor, AutoModel, pipeline

import charm_hf
from charm_hf.hub import assemble_repository, pull_checkpoint, push_checkpoint, resolve_checkpoint


PHOTO = photo_path("chelsea")

# What someone types who has transformers and not this package.
STRANGER = """
import json, sys
sys.modules["charm_hf"] = None
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

repo, photo, old = sys.argv[1:]
def by_hand(kind=AutoModel, **where):
    processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=True, **where)
    model = kind.from_pretrained(repo, trust_remote_code=True, **where).eval()
    return model(**processor(photo, return_tensors="pt")).scores.item()

def whole(**where):
    return pipeline("image-aesthetics", model=repo, trust_remote_code=True, **where)(photo)["score"]

scores = {
    "root": by_hand(),
    "classification": by_hand(AutoModelForImageClassification),
    "subfolder": by_hand(subfolder="para"),
    "revision": by_hand(revision=old),
    "code_revision": by_hand(code_revision=old),
    "subfolder and revision": by_hand(subfolder="para", revision="v1"),
    "pipeline": whole(),
    "pipeline revision": whole(revision=old),
    "pipeline subfolder": whole(model_kwargs={"subfolder": "para"}),
}
assert AutoConfig.from_pretrained(repo, subfolder="para", trust_remote_code=True).dataset_name == "para"
print(json.dumps(scores))
"""


def save(folder: Path, seed: int, dataset: str) -> Path:
    model = tiny_model(seed=seed, dataset=dataset)
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return folder


def score(model: str | Path, **where: object) -> float:
    return pipeline("image-aesthetics", model=str(model), **where)(PHOTO)["score"]


def run(hub: HubServer, script: str, *arguments: str, home: Path, **environment: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=hub_environment(hub, home, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture
def published(hub: HubServer, tmp_path: Path, unchecked: None) -> dict[str, float]:
    """A repository with two checkpoints, whose root changed after the tag `v1`. Gives the expected scores."""
    first, second = save(tmp_path / "first", 0, "ava"), save(tmp_path / "second", 1, "ava")
    para = save(tmp_path / "para", 2, "para")
    for number, ava in enumerate((first, second)):
        whole = assemble_repository({"ava": ava, "para": para}, tmp_path / f"whole-{number}")
        push_checkpoint(whole, "alice/charm", tag=f"v{number + 1}")
    return {"old": score(first), "root": score(second), "para": score(para)}


@pytest.mark.parametrize("hub", ["xet"], indirect=True)
@pytest.mark.slow
def test_a_stranger_loads_every_checkpoint_and_revision_and_once_more_offline(
    hub: HubServer, published: dict[str, float], tmp_path: Path
) -> None:
    arguments = ("alice/charm", PHOTO, hub.repos["alice/charm"].tags["v1"])
    online = run(hub, STRANGER, *arguments, home=tmp_path / "stranger")
    assert online == pytest.approx(
        {
            "root": published["root"],
            "classification": published["root"],
            "subfolder": published["para"],
            "revision": published["old"],
            "code_revision": published["root"],
            "subfolder and revision": published["para"],
            "pipeline": published["root"],
            "pipeline revision": published["old"],
            "pipeline subfolder": published["para"],
        },
        abs=1e-6,
    )
    assert len({published["old"], published["root"], published["para"]}) == 3
    hub.requests.clear()
    offline = run(hub, STRANGER, *arguments, home=tmp_path / "stranger", HF_HUB_OFFLINE="1")
    assert offline == online
    assert not hub.requests


def test_with_the_package_nothing_has_to_be_trusted(
    hub: HubServer, published: dict[str, float], tmp_path: Path
) -> None:
    assert score("alice/charm") == pytest.approx(published["root"], abs=1e-6)
    assert score("alice/charm", revision="v1") == pytest.approx(published["old"], abs=1e-6)
    assert score("alice/charm", model_kwargs={"subfolder": "para"}) == pytest.approx(published["para"], abs=1e-6)
    assert score(resolve_checkpoint("alice/charm")) == pytest.approx(published["root"], abs=1e-6)
    assert score(resolve_checkpoint("alice/charm", dataset="ava")) == pytest.approx(published["root"], abs=1e-6)
    assert score(resolve_checkpoint("alice/charm@v1", dataset="para")) == pytest.approx(published["para"], abs=1e-6)
    assert score(pull_checkpoint("alice/charm@v1", tmp_path / "pulled")) == pytest.approx(published["old"], abs=1e-6)


def test_a_pipeline_says_what_produced_its_scores(hub: HubServer, published: dict[str, float], tmp_path: Path) -> None:
    tags = hub.repos["alice/charm"].tags
    by_name = pipeline("image-aesthetics", model="alice/charm", revision="v1").provenance
    assert by_name["model"] == "alice/charm"
    assert by_name["revision"] == tags["v1"]
    assert by_name["dtype"] == "float32"
    assert by_name["charm_hf"] == charm_hf.__version__
    halved = pipeline("image-aesthetics", model=resolve_checkpoint("alice/charm", dataset="para"), dtype="bfloat16")
    assert halved.provenance["revision"] == tags["v2"]
    assert halved.provenance["dtype"] == "bfloat16"
    folder = tmp_path / "para"
    local = pipeline("image-aesthetics", model=str(folder)).provenance
    assert local["revision"] is None
    assert local["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_only_the_wanted_checkpoint_is_fetched(hub: HubServer, published: dict[str, float], tmp_path: Path) -> None:
    pulled = Path(pull_checkpoint("alice/charm", tmp_path / "pulled", dataset="para"))
    weights = [path.relative_to(pulled).as_posix() for path in pulled.rglob("*.safetensors")]
    assert weights == ["para/model.safetensors"]
    assert (pulled / "modeling_charm.py").is_file()
    assert Path(resolve_checkpoint(pulled, dataset="para")) == pulled / "para"
    with pytest.raises(ValueError, match="no checkpoint at its root: it holds para"):
        resolve_checkpoint(pulled)


def test_model_processor_and_pipeline_push_themselves_with_their_code(hub: HubServer, tmp_path: Path) -> None:
    folder = save(tmp_path / "trained", 0, "ava")
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    model.push_to_hub("alice/in-parts", private=True)
    processor.push_to_hub("alice/in-parts")
    pipeline("image-aesthetics", model=str(folder)).push_to_hub("alice/at-once")

    code = {path.name for path in folder.glob("*.py")}
    for repo in ("alice/in-parts", "alice/at-once"):
        files = hub.files(repo)
        assert code | {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(files)
        card = ModelCard(files["README.md"].data.decode())
        assert (card.data.pipeline_tag, card.data.library_name) == ("image-classification", "transformers")
        assert card.data.datasets == ["ava"]
        assert score(repo) == pytest.approx(score(folder), abs=1e-6)
    assert hub.repos["alice/in-parts"].private
