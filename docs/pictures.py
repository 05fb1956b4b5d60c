"""Makes the pictures of README and docs, with the commands that the pages show: `python docs/pictures.py`.

The photos are CC0 or in the public domain: `examples/photos`, and others that come with scikit-image. Screenshots are
taken by the system's Chromium, driven by Playwright.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from charm_hf import CharmImageProcessor
from charm_hf.look.demo import launch_demo
from charm_hf.look.explain import see


IMAGES = Path(__file__).parent / "images"
EXAMPLES = Path(__file__).parent.parent / "examples" / "photos"
FROM_SCIKIT_IMAGE = (
    *("brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "moon.png", "retina.jpg"),
)


def charm_hf(*arguments: object) -> None:
    """Run a command as a reader would."""
    subprocess.run([sys.executable, "-m", "charm_hf_cli", *map(str, arguments)], check=True)


def make_photo_folder(folder: Path) -> Path:
    """Gather the photos in one place."""
    import skimage.data

    folder.mkdir()
    for path in (
        *EXAMPLES.glob("*.jpg"),
        *(Path(skimage.data.__file__).parent / name for name in FROM_SCIKIT_IMAGE),
    ):
        shutil.copy(path, folder)
    return folder


def main() -> None:
    """Write every picture anew."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint; the embedded demonstration if not given")
    model = parser.parse_args().model
    option = ["--model", model] if model else []
    IMAGES.mkdir(exist_ok=True)
    see(EXAMPLES / "coffee.jpg", CharmImageProcessor.for_dataset("aadb")).save(IMAGES / "tokens.jpg")
    charm_hf("explain", EXAMPLES / "coffee.jpg", "-o", IMAGES / "explain.jpg", *option)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        photos = make_photo_folder(Path(folder) / "photos")
        charm_hf("score", photos, "--output", Path(folder) / "scores.csv", *option)
        charm_hf("report", Path(folder) / "scores.csv", "-o", Path(folder) / "report.html", "--title", "My photos")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
            page.goto((Path(folder) / "report.html").as_uri())
            page.wait_for_function("[...document.images].every((image) => image.complete)")
            page.screenshot(path=IMAGES / f"report-{scheme}.jpg", type="jpeg", quality=85)
        server, url = launch_demo([model] if model else (), block=False)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector("#files input[type=file]", state="attached")
        page.set_input_files("#files input[type=file]", [str(path) for path in sorted(EXAMPLES.glob("*.jpg"))])
        page.wait_for_function("document.querySelector('#picture img')?.complete", timeout=120_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / "demo.jpg", type="jpeg", quality=85)
        server.close(verbose=False)
        browser.close()


if __name__ == "__main__":
    main()
