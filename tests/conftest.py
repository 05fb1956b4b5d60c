"""Photos and small random checkpoints that the tests share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dataset_builders import save_photo, write_csv
from hub_server import HubServer
from huggingface_hub.utils import disable_progress_bars
from transformers import Dinov2Config, Dinov2WithRegistersConfig, PretrainedConfig, ViTConfig

from charm_hf import CharmForAestheticScoring, CharmImageProcessor


os.environ.setdefault("HF_HUB_OFFLINE", "1")
FIXTURES = Path(__file__).parent / "fixtures"
BACKBONES = ("dinov2", "dinov2_with_registers", "vit")


def photo_path(name: str) -> str:
    """Path of a photo: `coffee`, `chelsea`, `astronaut` (scikit-image) or `china` (a fixture)."""
    if name == "china":
        return str(FIXTURES / "tokens" / "china.png")
    import skimage.data

    return str(Path(skimage.data.__file__).parent / f"{name}.png")


def tiny_backbone_config(model_type: str, **overrides: object) -> PretrainedConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **overrides}
    if model_type == "vit":
        return ViTConfig(**{"intermediate_size": 64, "patch_size": 16, "image_size": 80, **shape})
    config_class = {"dinov2": Dinov2Config, "dinov2_with_registers": Dinov2WithRegistersConfig}[model_type]
    return config_class(**{"mlp_ratio": 2, "patch_size": 14, "image_size": 70, **shape})


def tiny_model(model_type: str = "vit", seed: int = 0, **kwargs: object) -> CharmForAestheticScoring:
    """Random model whose scores differ visibly between photos (freshly initialized ones hardly do)."""
    torch.manual_seed(seed)
    model = CharmForAestheticScoring.from_backbone(tiny_backbone_config(model_type), **{"dataset": "ava", **kwargs})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2 if "classifier" not in name else 0.6, generator=generator)
    return model.eval()


def tiny_processor(model: CharmForAestheticScoring, **kwargs: object) -> CharmImageProcessor:
    return CharmImageProcessor(
        **{
            "patch_size": model.config.patch_size,
            "max_num_patches": 200,
            "num_scales": model.config.num_scales,
            **kwargs,
        }
    )


@pytest.fixture(scope="session")
def photos() -> list[str]:
    return [photo_path(name) for name in ("coffee", "chelsea", "astronaut")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random checkpoint with a distribution head."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photo_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos with votes from 1 to 5; 16 train, 8 validate."""
    root = tmp_path_factory.mktemp("photo_table")
    rows = []
    for index in range(24):
        level = (index * 7 % 24) / 24
        save_photo(root / "images" / f"{index}.jpg", level, seed=index, size=(84, 56))
        peak = round(4 * level)
        votes = [10 if bin == peak else 3 if abs(bin - peak) == 1 else 0 for bin in range(5)]
        rows.append([f"{index}.jpg", "ab"[index % 2], "train" if index % 3 else "validation", *votes])
    write_csv(root / "ratings.csv", ["image", "kind", "split", "c1", "c2", "c3", "c4", "c5"], rows)
    return root


def xet_to_a_folder(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Why the client cannot store into a folder by xet, if it cannot: `local://` is undocumented."""
    folder = tmp_path_factory.mktemp("xet-probe")
    sample = folder / "sample"
    sample.write_bytes(b"a few bytes")
    try:
        import hf_xet

        with HubServer(folder) as hub:
            hub.create("alice/probe")
            with hf_xet.XetSession().new_upload_commit(
                token_refresh_url=f"{hub.url}/api/models/alice/probe/xet-write-token/main",
                token_refresh_headers={"authorization": "Bearer hf_alice"},
                custom_headers={},
                progress_callback=None,
            ) as commit:
                commit.start_upload_file(str(sample), sha256=hf_xet.COMPUTE_SHA256)
            return None if list(hub.xet_folder.rglob("*.mdb")) else "hf_xet stored nothing in the folder"
    except Exception as error:
        return f"this hf_xet does not store into a folder: {error}"


@pytest.fixture(params=["lfs", "xet"])
def hub(
    request: pytest.FixtureRequest, xet_to_a_folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A Hub on this machine, for the client in this process, in each of its upload modes. The user is alice."""
    if request.param == "xet" and xet_to_a_folder:
        pytest.skip(xet_to_a_folder)
    with HubServer(tmp_path / "hub") as server:
        server.mode = request.param
        home = tmp_path / "home"
        changes = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": request.param == "lfs",
            "HF_HUB_CACHE": str(home / "hub"),
        }
        for name, value in changes.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(home / "assets"))
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        disable_progress_bars()
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the address of its Hub
        # Retries wait for minutes in all; what is tested is what follows the last one.
        patient = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
        monkeypatch.setattr("huggingface_hub.utils._http.time", patient)
        yield server


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the clean process that a push starts first, where only the transfer is tested: it takes seconds."""
    monkeypatch.setattr("charm_hf.hub.push.verify_checkpoints", lambda folder: {})


def hub_environment(hub: HubServer, home: Path, **extra: str) -> dict[str, str]:
    """Environment of a process whose client talks to `hub` in the same upload mode, with a cache of its own."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_alice",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1" if hub.mode == "lfs" else "0",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        **extra,
    }
