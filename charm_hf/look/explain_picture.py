"""Draws an [`Explanation`] with matplotlib: the photo, what the model received, what moved the score, and the score.

Of a [`SeenPhoto`], which no model has scored, the first two.
"""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("Pictures of explanations need matplotlib: `pip install 'charm-hf[look]'`.") from error

from .explain import Explanation, SeenPhoto


# Inches: longest edge of a panel, and the least width that its text needs.
_PANEL, _LEAST = 6.4, 3.6
_DOTS = 100
_KEPT, _MIDDLE, _BAR = "#ffbe1e", "#46d2e6", "#2878ff"
# Blue and orange are told apart by every kind of colour vision; where nothing moved the score, the photo shows.
_HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.16, 0.47, 1, 0.9), (0.16, 0.47, 1, 0.45), (0.5, 0.5, 0.5, 0), (1, 0.51, 0, 0.45), (1, 0.51, 0, 0.9)]
)


class _Inks(NamedTuple):
    """What is written and drawn beside the photos."""

    ground: str
    text: str
    quiet: str
    line: str
    outside: str


_LIGHT = _Inks("#ffffff", "#1c1c1c", "#606060", "#d0d0d0", "#f0f0f0")
_DARK = _Inks("#101012", "#f2f2f2", "#b0b0b4", "#48484c", "#28282a")
_AGAINST = {"blurred": "a blurred copy", "mean": "its mean colour", "empty": "an empty photo"}


def draw_panels(seen: SeenPhoto, *, dark: bool = False, columns: int | None = None) -> Image.Image:
    """Draw the panels.

    Args:
        seen: what to draw.
        dark: light text on a dark ground.
        columns: how many panels beside each other; two for a wide photo, all for a tall one if not given.
    """
    inks = _DARK if dark else _LIGHT
    (left, top, right, bottom), photo = seen.area, seen.photo
    left, top, right, bottom = min(left, 0.0), min(top, 0.0), max(right, photo.width), max(bottom, photo.height)
    scale = _PANEL / max(right - left, bottom - top)
    width, height = max((right - left) * scale, _LEAST), max((bottom - top) * scale, _LEAST)
    count = 4 if isinstance(seen, Explanation) else 2
    columns = columns or (2 if width >= 0.9 * height else count)
    rows = count // columns
    size = columns * (width + 0.3), rows * (height + 0.9) + (0.8 if count > 2 else 0)
    figure = Figure(size, _DOTS, facecolor=inks.ground)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns).reshape(-1)
    for axes in panels[:3]:
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], facecolor=inks.outside, anchor="NW")
        axes.spines[:].set_visible(False)
    _draw_kept(panels[0], seen, inks)
    _draw_received(panels[1], seen, inks)
    if isinstance(seen, Explanation):
        _draw_heat(panels[2], seen, inks, (bottom - top) * scale)
        _draw_score(panels[3], seen, inks, height)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _label(axes: Any, inks: _Inks, title: str, caption: str, distance: float = 6) -> None:
    """Title above and caption below a panel, `distance` in points."""
    axes.set_title(title, loc="left", fontsize=16, color=inks.text, pad=8)
    width = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols
    text = textwrap.fill(caption, int(width * 10.5))
    axes.set_xlabel(text, loc="left", fontsize=11, color=inks.quiet, labelpad=distance)


def _show(axes: Any, pixels: Any, area: tuple[float, float, float, float], **options: Any) -> Any:
    left, top, right, bottom = area
    return axes.imshow(pixels, extent=(left, right, bottom, top), **options)


def _draw_kept(axes: Any, seen: SeenPhoto, inks: _Inks) -> None:
    """The photo, darkened where resolution was lost, with the kept regions outlined."""
    photo = np.asarray(seen.photo)
    height, width = photo.shape[:2]
    left, top, right, bottom = seen.area
    zoom = seen.received.width / (right - left)
    resized = f", after resizing the photo to {100 * zoom:.0f} %" if abs(zoom - 1) > 0.005 else ""
    if seen.finest == 0:
        _show(axes, photo, (0, 0, width, height))
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=_KEPT, linewidth=4)
        _label(axes, inks, "Photo", f"Everything in the frame was kept{resized}")
        return
    kept = np.pad(seen.kept(seen.finest), 1)  # what lies outside the canvas was not kept
    down = np.digitize(np.arange(height) + 0.5, np.linspace(top, bottom, kept.shape[0] - 1))
    across = np.digitize(np.arange(width) + 0.5, np.linspace(left, right, kept.shape[1] - 1))
    dimmed = np.where(kept[down][:, across, None], photo, photo * 0.57).astype(np.uint8)
    _show(axes, dimmed, (0, 0, width, height))
    for scale in range(1, seen.finest + 1):
        colour = _KEPT if scale == seen.finest else _MIDDLE
        axes.add_collection(LineCollection(_outline(seen.kept(scale), seen.area), colors=colour, linewidths=1.5))
    share = f"{100 * seen.kept(seen.finest).mean():.0f} %"
    middle = "; cyan: in between" if seen.finest > 1 else ""
    _label(axes, inks, "Photo", f"Framed: full resolution, {share} of the area{resized}{middle}")


def _outline(mask: np.ndarray, area: tuple[float, float, float, float]) -> list[Any]:
    """A line wherever a cell of the mask meets one outside it."""
    down, across = (np.linspace(area[axis], area[axis + 2], mask.shape[1 - axis] + 1) for axis in (1, 0))
    padded = np.pad(mask, 1)
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    return [((across[column], down[row]), (across[column + 1], down[row])) for row, column in level] + [
        ((across[column], down[row]), (across[column], down[row + 1])) for row, column in upright
    ]


def _draw_received(axes: Any, seen: SeenPhoto, inks: _Inks) -> None:
    _show(axes, np.asarray(seen.received), seen.area, interpolation="antialiased")
    counts = [f"{count}" for count in seen.tokens_per_scale if count]
    scales = f" ({' coarse + '.join([counts[0], ' + '.join(counts[1:])])} fine)" if len(counts) > 1 else ""
    width, height = seen.received.size
    caption = f"{sum(seen.tokens_per_scale)} tokens{scales} on {width} × {height} pixels"
    _label(axes, inks, "What the model received", caption)


def _draw_heat(axes: Any, seen: Explanation, inks: _Inks, height: float) -> None:
    """The photo in grey, coloured where tokens raised or lowered the score; `height` of the panel in inches."""
    # Neither black nor white, so that colour shows everywhere.
    grey = 70 + 0.55 * np.asarray(seen.photo.convert("L"), dtype=np.float32)
    _show(axes, grey, (0, 0, *seen.photo.size), cmap="gray", vmin=0, vmax=255)
    points = seen.heat * seen.heat.size / 100
    limit = max(float(np.quantile(np.abs(points), 0.995)), 1e-30)
    heat = _show(axes, points, seen.area, cmap=_HEAT, vmin=-limit, vmax=limit, interpolation="bicubic")
    scale = axes.inset_axes((0, -0.26 / height, 1, 0.14 / height), facecolor="#969696")
    axes.figure.colorbar(heat, cax=scale, orientation="horizontal", ticks=MaxNLocator(4)).outline.set_visible(False)
    scale.tick_params(length=0, labelsize=10, labelcolor=inks.quiet)
    parts, digits, other = seen.contributions, _digits(seen), _AGAINST[seen.against]
    if seen.method == "occlusion":
        title = "What the score would lose"
        caption = f"orange: worse when {other} hides this place alone, blue: better"
    else:
        title = "What moved the score"
        whence, up, down = (
            f"{number:.{digits}f}" for number in (seen.score_against, parts.clip(0).sum(), (-parts).clip(0).sum())
        )
        caption = f"from {whence} for {other}: raised by {up} (orange), lowered by {down} (blue)"
    _label(axes, inks, title, f"Points for 1 % of the area; {caption}", distance=40)


def _draw_score(axes: Any, seen: Explanation, inks: _Inks, height: float) -> None:
    """The score in figures, what is known of its uncertainty, and the distribution or the place in the range."""
    low, high = seen.score_range
    digits = _digits(seen)
    _label(axes, inks, "Score", "")
    axes.set_axis_off()
    place: dict[str, Any] = {"textcoords": "offset points", "color": inks.quiet}
    score = axes.annotate(f"{seen.score:.{digits}f}", (0, 1), (0, -46), fontsize=46, **{**place, "color": inks.text})
    axes.annotate(f"of {low:g} to {high:g}", (1, 0.2), (10, 0), xycoords=score, fontsize=14, **place)
    facts = _facts(seen.result, digits)
    axes.annotate("\n".join(facts), (0, 1), (0, -64), va="top", fontsize=12, linespacing=1.4, **place)
    top = 1 - (64 + 20 * len(facts) + 34) / 72 / height
    if seen.result["distribution"] is not None and seen.score_values is not None:
        bins = range(len(seen.score_values))
        chart = axes.inset_axes((0, max(0, top - 2.8 / height), 1, min(top, 2.8 / height)), facecolor=inks.ground)
        chart.bar(bins, seen.result["distribution"], 0.76, color=_BAR)
        chart.set_xticks(bins, [f"{value:g}" for value in seen.score_values])
        marked = float(np.interp(seen.score, seen.score_values, bins))
    else:
        chart = axes.inset_axes((0, top, 1, 0.16 / height), facecolor=inks.line)
        chart.barh(0, seen.score - low, 1, left=low, color=_BAR)
        chart.set(xlim=(low, high), ylim=(-0.5, 0.5), xticks=[low, high])
        marked = seen.score
    chart.spines[:].set_visible(False)
    chart.tick_params(left=False, labelleft=False, bottom=False, labelcolor=inks.quiet, labelsize=11)
    chart.axvline(marked, color=inks.text, linewidth=2)
    chart.plot(
        marked, 1, marker="v", color=inks.text, markersize=10, transform=chart.get_xaxis_transform(), clip_on=False
    )


def _digits(explanation: Explanation) -> int:
    extent = explanation.score_range[1] - explanation.score_range[0]
    return 3 if extent <= 2 else 2 if extent <= 20 else 1


def _facts(result: dict[str, Any], digits: int) -> list[str]:
    facts = []
    if result.get("std") is not None:
        facts.append(f"± {result['std']:.{digits}f} between the predicted ratings")
    if result.get("spread"):  # 0 where there is nothing to select
        facts.append(f"± {result['spread']:.{digits + 1}f} between random selections of regions")
    if result.get("percentile") is not None:
        facts.append(f"above {result['percentile']:.0f} % of the ratings it was trained on")
    return facts


__all__ = ["draw_panels"]
