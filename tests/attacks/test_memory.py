"""No photo takes more memory than is promised: tried in a process that gets no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import KINDS, encoded, photo_like
from PIL import Image

from charm_hf.models.image_formats_charm import FORMATS, MAX_PHOTO_BYTES


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does")

# Reads a list of [file, parameters]; the process may grow by so many bytes from the first photo on.
SCRIPT = """
import json, re, resource, sys
from PIL import Image
from charm_hf import CharmImageProcessor
from charm_hf.models import image_formats_charm, image_loading_charm, image_processing_charm, plan_charm
jobs, bound, slack = json.loads(sys.argv[1])
for module in (image_formats_charm, image_loading_charm, image_processing_charm, plan_charm):
    if hasattr(module, "MAX_PHOTO_BYTES"):
        module.MAX_PHOTO_BYTES = bound
Image.init()
for selection in ("frequency", "gradient", "entropy", "original"):  # caches, and threads of the libraries
    for name in sys.argv[2:]:
        CharmImageProcessor(patch_selection=selection, max_num_patches=64)(name)
taken = int(re.search(r"VmSize:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + bound + slack,) * 2)
for name, parameters in jobs:
    try:
        if parameters is None:
            answer = len(image_loading_charm.load_image(name).getbands())
        else:
            answer = CharmImageProcessor(**parameters)(name)["pixel_values"].shape[1]
    except (ValueError, RuntimeError, MemoryError) as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


def tokens_within(bound: int, slack: int, jobs: list, warm_up: list) -> list:
    """What becomes of each file in a process that may grow by so many bytes.

    Its number of tokens, or of channels where there are no parameters; or the error.
    """
    jobs = [[str(path), parameters] for path, parameters in jobs]
    arguments = [json.dumps([jobs, bound, slack]), *map(str, warm_up)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write(path: Path, kind: str, size: tuple[int, int]) -> Path:
    path.write_bytes(encoded(kind, photo_like(*size)))
    return path


def test_there_is_a_file_of_every_format_to_try() -> None:
    # Pillow reads Photoshop's files and writes none: tests/models/test_camera_files.py has one.
    assert {name for name, _, _ in KINDS.values()} - {"MPO"} == set(FORMATS) - {"PSD"}


@pytest.mark.slow
def test_the_largest_picture_of_each_kind_is_decoded_within_the_memory_that_is_promised_for_it(tmp_path: Path) -> None:
    # A twentieth of the true bound, so that files are made in seconds: what decoders take grows with the pixels.
    bound = MAX_PHOTO_BYTES // 20
    jobs, warm_up = [], []
    for number, kind in enumerate(KINDS):
        name = "JPEG" if kind == "MPO" else KINDS[kind][0]
        a_pixel = {"JPEG, progressive": 10, "JPEG": 8, "PNG": 8}.get(kind, max(8, FORMATS[name].bytes_per_pixel))
        edge = int((0.96 * bound / a_pixel) ** 0.5)
        jobs.append([write(tmp_path / f"{number}.img", kind, (edge, edge)), None])
        warm_up.append(write(tmp_path / f"{number}.small", kind, (300, 200)))
    answers = tokens_within(bound, 40 * 2**20, jobs, warm_up)  # beside what does not grow with the photo
    assert dict(zip(KINDS, answers, strict=True)) == dict.fromkeys(KINDS, 3)


@pytest.mark.slow
def test_hostile_and_huge_photos_stay_within_one_gigabyte(tmp_path: Path) -> None:
    def plain(name: str, mode: str, size: tuple[int, int]) -> Path:
        Image.new(mode, size).save(tmp_path / name, compress_level=1)
        return tmp_path / name

    thin = plain("thin.png", "RGB", (1, 60_000))
    line = plain("line.png", "1", (20_000_000, 1))
    clear = plain("clear.png", "RGBA", (11_150, 11_150))
    large = plain("large.png", "RGB", (12_000, 10_000))
    beyond = plain("beyond.png", "RGBA", (13_370, 13_370))
    jobs = [
        [thin, {"patch_selection": "original"}],
        [line, {"overflow": "keep"}],
        [line, {}],
        *[[clear, {"patch_selection": selection}] for selection in ("frequency", "entropy")],
        [large, {"do_resize": True, "size": {"longest_edge": 2000}}],
        [large, {"do_resize": True, "size": {"longest_edge": 11_999}}],
        [large, {"overflow": "keep", "max_num_patches": 2**20}],
        [beyond, {}],
    ]
    answers = tokens_within(MAX_PHOTO_BYTES, 2**30 - MAX_PHOTO_BYTES, jobs, [write(tmp_path / "s.png", "PNG", (9, 9))])
    assert answers[0] == 256
    assert all(isinstance(tokens, int) and tokens <= 1024 for tokens in answers[3:6])
    for refused in (answers[1], answers[2], *answers[6:]):
        assert "ValueError" in str(refused)
        assert "memory" in str(refused), refused
        assert "MemoryError" not in str(refused)


def test_a_thin_photo_enlarged_for_the_baseline_is_cropped_first(tmp_path: Path) -> None:
    Image.new("RGB", (1, 60_000)).save(tmp_path / "thin.png")
    jobs = [[tmp_path / "thin.png", {"patch_selection": "original"}]]
    (answer,) = tokens_within(MAX_PHOTO_BYTES, -MAX_PHOTO_BYTES + 100 * 2**20, jobs, [tmp_path / "thin.png"])
    assert answer == 256
