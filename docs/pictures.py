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
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from charm_hf import CharmImageProcessor
from charm_hf.look.demo import launch_demo
from charm_hf.look.explain import SeenPhoto, see
from charm_hf.models.plan_charm import PhotoPlan


IMAGES = Path(__file__).parent / "images"
EXAMPLES = Path(__file__).parent.parent / "examples" / "photos"
FROM_SCIKIT_IMAGE = (
    *("brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "moon.png", "retina.jpg"),
)
OVERFLOWS = {
    "keep": "every token stays",
    "drop": "tokens are left out at random",
    "resize": "the whole photo shrinks",
    "coarsen": "the background shrinks (default)",
}


class Inks(NamedTuple):
    """Colours of what is written and framed."""

    ground: str
    text: str
    quiet: str
    frame: str = "#ffbe1e"


INKS = {"light": Inks("#ffffff", "#1c1c1c", "#505050"), "dark": Inks("#0d1117", "#f2f2f2", "#b8b8bc")}


def charm_hf(*arguments: object) -> None:
    """Run a command as a reader would."""
    subprocess.run([sys.executable, "-m", "charm_hf_cli", *map(str, arguments)], check=True)


def scikit_image(name: str) -> Path:
    """A photo that comes with scikit-image."""
    import skimage.data

    return Path(skimage.data.__file__).parent / name


def make_photo_folder(folder: Path) -> Path:
    """Gather the photos in one place."""
    folder.mkdir()
    for path in (*EXAMPLES.glob("*.jpg"), *map(scikit_image, FROM_SCIKIT_IMAGE)):
        shutil.copy(path, folder)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# What stays native of a small and a large photo, under each `overflow`.


def make_mosaic(columns: int = 8, rows: int = 8, width: int = 500, height: int = 375) -> Image.Image:
    """A picture of 4000×3000 pixels, sharp in each of them: parts of photos beside each other."""
    photos = [Image.open(scikit_image(name)).convert("RGB") for name in ("astronaut.png", "coffee.png", "rocket.jpg")]
    photos += [Image.open(EXAMPLES / "chelsea.jpg").resize((564, height), Image.Resampling.LANCZOS)]
    photos += [Image.open(scikit_image("hubble_deep_field.jpg")).convert("RGB")]
    random = np.random.default_rng(0)
    mosaic = Image.new("RGB", (columns * width, rows * height))
    for place in range(columns * rows):
        photo = photos[(place + place // columns * 3) % len(photos)]
        left = int(random.integers(photo.width - width + 1))
        top = int(random.integers(photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height))
        mosaic.paste(part, (place % columns * width, place // columns * height))
    return mosaic


def describe(plan: PhotoPlan) -> str:
    """How many tokens, what is native, at which size the rest is."""
    zoom = plan.resized[0] / plan.source[0]
    native, coarsest = plan.scales[-1], plan.scales[0]
    share = 100 * native.count * native.region**2 / (plan.source[0] * plan.source[1])
    if plan.thumbnail is not None:
        rest = f"all of it at 1/{plan.source[0] / plan.thumbnail[0]:.2g}"
    else:
        rest = f"the rest at {zoom * coarsest.shown / coarsest.region:.2g}"
    chosen = f"native {share:.2g} % of the photo" if zoom == 1 else f"nothing native: chosen regions at {zoom:.2g}"
    if plan.dropped:
        left = plan.num_tokens / (plan.num_tokens + plan.dropped)
        return f"{plan.num_tokens:,} tokens, {plan.dropped:,} left out:\na random {100 * left:.2g} % of the above"
    return f"{plan.num_tokens:,} tokens\n{chosen}, {rest}"


def darken_lost(seen: SeenPhoto, plan: PhotoPlan, width: int = 800) -> Image.Image:
    """The photo, so wide, dark where its own pixels were lost: everywhere, if the whole of it was shrunk."""
    left, top, right, bottom = seen.area
    kept = seen.kept(seen.finest) & (plan.resized == plan.source)
    size = width, round(width * seen.photo.height / seen.photo.width)
    places = [np.arange(side) * whole / side for side, whole in zip(size, seen.photo.size, strict=True)]
    across, down = (
        np.digitize(place, np.linspace(*ends, cells + 1)) - 1
        for place, ends, cells in zip(places, ((left, right), (top, bottom)), kept.shape[::-1], strict=True)
    )
    lost = ~np.pad(kept, ((0, 1), (0, 1)))[down][:, across]  # beyond the grid, too
    pixels = np.array(seen.photo.resize(size, Image.Resampling.LANCZOS))
    pixels[lost] = pixels[lost] * 0.35
    return Image.fromarray(pixels)


def find_window(seen: SeenPhoto, rows: int = 9, columns: int = 12) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in the photo's pixels, of the first so many tokens of which half are native."""
    total = np.pad(seen.kept(seen.finest).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    kept = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    top, left = np.unravel_index(np.abs(kept - rows * columns // 2).argmin(), kept.shape)
    return int(left) * 14, int(top) * 14, int(left + columns) * 14, int(top + rows) * 14


def cut_window(seen: SeenPhoto, window: tuple[int, int, int, int]) -> Image.Image:
    """What the model received of a part of the photo."""
    left, top, right, bottom = seen.area
    across, down = seen.received.width / (right - left), seen.received.height / (bottom - top)
    corners = (
        ((window[0] - left) * across, (window[1] - top) * down),
        ((window[2] - left) * across, (window[3] - top) * down),
    )
    size = window[2] - window[0], window[3] - window[1]
    return seen.received.transform(size, Image.Transform.EXTENT, sum(corners, ()), Image.Resampling.NEAREST)


class OverflowCell(NamedTuple):
    """One photo under one `overflow`: all of it, a part as the model received it, where that lies, and words."""

    whole: Image.Image
    part: Image.Image
    frame: tuple[float, float, float, float]
    caption: str


def look_at_overflows(photo: Image.Image) -> list[OverflowCell]:
    """Tokenize a photo under each `overflow`, with AVA's settings."""
    processor = CharmImageProcessor.for_dataset("ava")
    window = find_window(see(photo, processor))
    cells = []
    for overflow in OVERFLOWS:
        seen = see(photo, processor, overflow=overflow)
        plan = processor.plan(photo.height, photo.width, overflow=overflow)
        whole = darken_lost(seen, plan)
        frame = tuple(edge * whole.width / photo.width for edge in window)
        cells.append(OverflowCell(whole, cut_window(seen, window), frame, describe(plan)))
    return cells


def draw_overflows(photos: dict[str, list[OverflowCell]], inks: Inks) -> Image.Image:
    """Draw a row for each `overflow`: of each photo what stays native, and a part as the model receives it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure((18, 17.4), 100, facecolor=inks.ground)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    canvas = FigureCanvasAgg(figure)
    panels: Any = figure.subplots(len(OVERFLOWS), 5, width_ratios=(1, 1, 0.02, 1, 1))
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], anchor="N", facecolor=inks.ground)
        axes.spines[:].set_visible(False)
    for column, (name, cells) in enumerate(photos.items()):
        for row, (overflow, cell) in enumerate(zip(OVERFLOWS, cells, strict=True)):
            whole, part = panels[row, 3 * column : 3 * column + 2]
            whole.imshow(cell.whole)
            left, top, right, bottom = cell.frame
            frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=inks.frame, linewidth=2.5)
            whole.add_patch(frame)
            part.imshow(cell.part, interpolation="nearest")
            part.spines[:].set(visible=True, color=inks.frame, linewidth=2.5)
            whole.set_xlabel(cell.caption, loc="left", fontsize=16.5, color=inks.text, labelpad=7, linespacing=1.35)
            if column == 0:
                title = f"{overflow}: {OVERFLOWS[overflow]}"
                whole.set_title(title, loc="left", fontsize=21, color=inks.text, pad=9)
            if row == 0:
                part.set_title(name, loc="right", fontsize=17, color=inks.quiet, pad=9)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def picture_overflows(option: list[str]) -> None:
    """Draw the table of `overflow`, for a light and a dark page."""
    coffee = Image.open(scikit_image("coffee.png")).convert("RGB").resize((775, 516), Image.Resampling.BICUBIC)
    photos = {
        "0.4 megapixels: 775×516, enlarged": look_at_overflows(coffee),
        "12 megapixels: 4000×3000, a mosaic": look_at_overflows(make_mosaic()),
    }
    for scheme, inks in INKS.items():
        draw_overflows(photos, inks).save(IMAGES / f"overflow-{scheme}.jpg", quality=85)


def picture_speed(option: list[str]) -> None:
    """Draw the table of the whole path of docs/performance.md, charm-tiny's rows, for a light and a dark page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = Path(__file__).with_name("performance.md").read_text(encoding="utf-8").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("| photo | model | header"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 8]]
    rows = [row for row in cells[2:] if row[1] == "charm-tiny"]
    for scheme, inks in INKS.items():
        figure = Figure(figsize=(8, 2.2), dpi=200, facecolor=inks.ground, layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor(inks.ground)
        left = np.zeros(len(rows))
        for column, color in zip((4, 5, 6), ("#4c78a8", "#ffbe1e", "#72b7b2"), strict=True):
            widths = np.array([float(row[column]) for row in rows])
            axes.barh([row[0] for row in rows], widths, left=left, color=color, label=cells[0][column])
            left += widths
        for place, row in enumerate(rows):
            text = f" {float(row[8]):.0f} ms, {float(row[9]):.0f} photos a second"
            axes.text(left[place], place, text, color=inks.text, va="center", fontsize=9)
        axes.set_xlim(0, 1.45 * left.max())
        axes.set_xlabel("milliseconds of one core", color=inks.quiet)
        axes.invert_yaxis()
        axes.tick_params(colors=inks.text)
        axes.spines[:].set_visible(False)
        axes.legend(loc="upper right", frameon=False, labelcolor=inks.text)
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(IMAGES / f"speed-{scheme}.png")


# ---------------------------------------------------------------------------------------------------------------------
# What the commands draw, and screenshots.


def picture_tokens(option: list[str]) -> None:
    """Draw the tokens of a photo."""
    see(EXAMPLES / "coffee.jpg", CharmImageProcessor.for_dataset("aadb")).save(IMAGES / "tokens.jpg")


def picture_explanation(option: list[str]) -> None:
    """Draw what moved the score of a photo."""
    charm_hf("explain", EXAMPLES / "coffee.jpg", "-o", IMAGES / "explain.jpg", *option)


def picture_pages(option: list[str]) -> None:
    """Take screenshots of the report and the demo."""
    from playwright.sync_api import sync_playwright

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
        server, url = launch_demo(option[1:], block=False)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector("#files input[type=file]", state="attached")
        page.set_input_files("#files input[type=file]", [str(path) for path in sorted(EXAMPLES.glob("*.jpg"))])
        page.wait_for_function("document.querySelector('#picture img')?.complete", timeout=120_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / "demo.jpg", type="jpeg", quality=85)
        server.close(verbose=False)
        browser.close()


PICTURES = {
    "tokens": picture_tokens,
    "overflow": picture_overflows,
    "explain": picture_explanation,
    "speed": picture_speed,
    "pages": picture_pages,
}


def main() -> None:
    """Write the pictures anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint; the embedded demonstration if not given")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES), help="some of them")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    for name in arguments.only:
        PICTURES[name](["--model", arguments.model] if arguments.model else [])


if __name__ == "__main__":
    main()
