"""Draws an [`Explanation`]: the photo, what the model received, what moved the score, and the score itself.

Of a [`SeenPhoto`], which no model has scored, the first two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .explain import Explanation, SeenPhoto, finest_scale


# Longest edge of one panel, and the least size that the text of a panel needs.
PANEL = 640
_LEAST = (340, 300)
_MARGIN, _TITLE, _LINE_HEIGHT = 28, 40, 23
_GROUND, _TEXT, _QUIET, _LINE = (255, 255, 255), (28, 28, 28), (96, 96, 96), (208, 208, 208)
_OUTSIDE = (240, 240, 240)
_KEPT, _MIDDLE = (255, 190, 30), (70, 210, 230)
# Orange and blue are told apart by every kind of colour vision.
_RAISED, _LOWERED = np.array([255.0, 130.0, 0.0]), np.array([40.0, 120.0, 255.0])


def draw_panels(seen: SeenPhoto) -> Image.Image:
    """Draw the panels: two by two for a wide photo, in one row for a tall one."""
    frame = _Frame(seen)
    cell = max(frame.size[0], _LEAST[0]), max(frame.size[1], _LEAST[1])
    panels = [
        ("Photo", _draw_kept(seen, frame), _caption_of_kept(seen)),
        ("What the model received", _draw_received(seen, frame), _caption_of_received(seen)),
    ]
    if isinstance(seen, Explanation):
        panels.append(("What moved the score", _draw_heat(seen, frame), ""))
        panels.append(("Score", _draw_score(seen, cell), ""))
    columns = 2 if frame.size[0] >= 0.9 * frame.size[1] else len(panels)
    captions = [_wrap(caption, cell[0]) for _, _, caption in panels]
    below = 11 + _LINE_HEIGHT * max(caption.count("\n") + 1 for caption in captions)
    step = cell[0] + _MARGIN, cell[1] + _TITLE + below + _MARGIN
    rows = len(panels) // columns
    picture = Image.new("RGB", (columns * step[0] + _MARGIN, rows * step[1] + _MARGIN), _GROUND)
    draw = ImageDraw.Draw(picture)
    for index, (title, panel, _) in enumerate(panels):
        left, top = _MARGIN + (index % columns) * step[0], _MARGIN + (index // columns) * step[1]
        draw.text((left, top), title, fill=_TEXT, font=_font(24))
        picture.paste(panel, (left, top + _TITLE))
        draw.text((left, top + _TITLE + panel.height + 8), captions[index], fill=_QUIET, font=_font(17), spacing=5)
        if index == 2:
            _draw_legend(draw, left, top + _TITLE + panel.height + 8)
    return picture


def _wrap(text: str, width: int) -> str:
    """Break a caption into lines that fit into `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(17).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


class _Frame:
    """The rectangle that holds both the photo and the canvas, and its scale on the panel."""

    def __init__(self, seen: SeenPhoto) -> None:
        left, top, right, bottom = seen.area
        width, height = seen.photo.size
        self.photo_box = (0.0, 0.0, float(width), float(height))
        self.area = seen.area
        self.origin = min(left, 0.0), min(top, 0.0)
        extent = max(right, width) - self.origin[0], max(bottom, height) - self.origin[1]
        self.factor = PANEL / max(extent)
        self.size = max(1, round(extent[0] * self.factor)), max(1, round(extent[1] * self.factor))

    def place(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Photo coordinates of a box to whole pixels of the panel."""
        left, top, right, bottom = (
            round((value - self.origin[axis % 2]) * self.factor) for axis, value in enumerate(box)
        )
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def paste(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        """An empty panel with the image scaled into a box."""
        left, top, right, bottom = self.place(box)
        panel = Image.new("RGB", self.size, _OUTSIDE)
        shrink = Image.Resampling.LANCZOS if right - left < image.width else Image.Resampling.NEAREST
        panel.paste(image.resize((right - left, bottom - top), shrink), (left, top))
        return panel


def _draw_kept(seen: SeenPhoto, frame: _Frame) -> Image.Image:
    """The photo, darkened where resolution was lost, with the kept regions outlined."""
    panel = frame.paste(seen.photo, frame.photo_box)
    finest = finest_scale(seen.spatial_shapes)
    if finest == 0:
        ImageDraw.Draw(panel).rectangle(_inside(frame.place(frame.area), frame.size), outline=_KEPT, width=3)
        return panel
    left, top, right, bottom = frame.place(frame.area)
    mask = Image.fromarray(seen.kept(finest)).resize((right - left, bottom - top), Image.Resampling.NEAREST)
    shade = Image.new("L", frame.size, 0)
    shade.paste(110, frame.place(frame.photo_box))
    shade.paste(0, (left, top), mask)
    panel = Image.composite(Image.new("RGB", frame.size, (0, 0, 0)), panel, shade)
    draw = ImageDraw.Draw(panel)
    for scale in range(1, finest + 1):
        _outline(draw, seen.kept(scale), frame, _KEPT if scale == finest else _MIDDLE)
    return panel


def _inside(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0]) - 1, min(box[3], size[1]) - 1


def _outline(draw: ImageDraw.ImageDraw, mask: np.ndarray, frame: _Frame, colour: tuple[int, int, int]) -> None:
    """Draw a line wherever a cell of the mask meets one outside it."""
    rows, columns = mask.shape
    left, top, right, bottom = frame.place(frame.area)
    across = np.round(np.linspace(left, right - 1, columns + 1)).astype(int)
    down = np.round(np.linspace(top, bottom - 1, rows + 1)).astype(int)
    padded = np.pad(mask, 1)
    lines = [
        (across[column], down[row], across[column + 1], down[row])
        for row, column in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    ] + [
        (across[column], down[row], across[column], down[row + 1])
        for row, column in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    ]
    for line in lines:
        draw.line([int(value) for value in line], fill=colour, width=2)


def _draw_received(seen: SeenPhoto, frame: _Frame) -> Image.Image:
    return frame.paste(seen.received, frame.area)


def _draw_heat(explanation: Explanation, frame: _Frame) -> Image.Image:
    """The photo in grey, coloured where tokens raised or lowered the score."""
    grey = explanation.photo.convert("L").convert("RGB")
    # Neither black nor white, so that colour shows everywhere.
    base = 70 + 0.55 * np.asarray(frame.paste(grey, frame.photo_box), dtype=np.float64)
    left, top, right, bottom = frame.place(frame.area)
    heat = explanation.heat / max(float(np.quantile(np.abs(explanation.heat), 0.995)), 1e-30)
    smooth = Image.fromarray(heat.astype(np.float32)).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    strength = np.zeros((frame.size[1], frame.size[0]))
    strength[top:bottom, left:right] = np.asarray(smooth)[: frame.size[1] - top, : frame.size[0] - left]
    opacity = 0.85 * np.clip(np.abs(strength), 0, 1)[..., None] ** 0.8
    colour = np.where(strength[..., None] > 0, _RAISED, _LOWERED)
    return Image.fromarray(np.round(base * (1 - opacity) + colour * opacity).astype(np.uint8))


def _draw_legend(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    font = _font(17)
    for text, colour in (("raised the score", _RAISED), ("lowered it", _LOWERED)):
        draw.rectangle((left, top + 2, left + 16, top + 18), fill=tuple(colour.astype(int)))
        draw.text((left + 24, top), text, fill=_QUIET, font=font)
        left += 24 + round(font.getlength(text)) + 28


def _caption_of_kept(seen: SeenPhoto) -> str:
    finest = finest_scale(seen.spatial_shapes)
    zoom = seen.received.width / (seen.area[2] - seen.area[0])
    resized = f", after resizing the photo to {100 * zoom:.0f} %" if abs(zoom - 1) > 0.005 else ""
    if finest == 0:
        return f"Everything in the frame was kept{resized}"
    share = f"{100 * seen.kept(finest).mean():.0f} %"
    middle = "; cyan: in between" if finest > 1 else ""
    return f"Framed: full resolution, {share} of the area{resized}{middle}"


def _caption_of_received(seen: SeenPhoto) -> str:
    counts = [f"{count}" for count in seen.tokens_per_scale if count]
    width, height = seen.received.size
    scales = f" ({' coarse + '.join([counts[0], ' + '.join(counts[1:])])} fine)" if len(counts) > 1 else ""
    return f"{sum(seen.tokens_per_scale)} tokens{scales} on {width} x {height} pixels"


def _draw_score(explanation: Explanation, size: tuple[int, int]) -> Image.Image:
    """The score in figures, what is known of its uncertainty, and the distribution or the place in the range."""
    panel = Image.new("RGB", size, _GROUND)
    draw = ImageDraw.Draw(panel)
    low, high = explanation.score_range
    digits = 3 if high - low <= 2 else 2 if high - low <= 20 else 1
    score = f"{explanation.score:.{digits}f}"
    draw.text((0, -8), score, fill=_TEXT, font=_font(72))
    beside = _font(72).getlength(score) + 16
    draw.text((beside, 32), f"of {low:g} to {high:g}", fill=_QUIET, font=_font(22))
    top = 84
    for line in _facts(explanation.result, digits):
        draw.text((0, top), line, fill=_QUIET, font=_font(18))
        top += 26
    area = (0, top + 24, size[0] - 1, min(size[1] - 34, top + 24 + 300))
    if explanation.result["distribution"] is not None and explanation.score_values is not None:
        _draw_bars(draw, area, explanation.result["distribution"], explanation.score_values, explanation.score)
    else:
        _draw_gauge(draw, area, explanation)
    return panel


def _facts(result: dict[str, Any], digits: int) -> list[str]:
    facts = []
    if result.get("std") is not None:
        facts.append(f"± {result['std']:.{digits}f} between the predicted ratings")
    if result.get("spread"):  # 0 where there is nothing to select
        facts.append(f"± {result['spread']:.{digits + 1}f} between random selections of regions")
    if result.get("percentile") is not None:
        facts.append(f"above {result['percentile']:.0f} % of the ratings it was trained on")
    return facts


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    area: tuple[int, int, int, int],
    distribution: list[float],
    values: tuple[float, ...],
    score: float,
) -> None:
    left, top, right, bottom = area
    slot = (right - left) / len(values)
    highest = max(distribution)
    font = _font(16)
    for index, (probability, value) in enumerate(zip(distribution, values, strict=True)):
        x = left + index * slot
        height = (bottom - top) * probability / highest
        draw.rectangle((x + 0.12 * slot, bottom - height, x + 0.88 * slot, bottom), fill=tuple(_LOWERED.astype(int)))
        draw.text((x + slot / 2, bottom + 6), f"{value:g}", fill=_QUIET, font=font, anchor="ma")
    draw.line((left, bottom, right, bottom), fill=_QUIET)
    place = np.interp(score, values, [left + (index + 0.5) * slot for index in range(len(values))])
    _draw_marker(draw, float(place), top - 14, bottom)


def _draw_gauge(draw: ImageDraw.ImageDraw, area: tuple[int, int, int, int], explanation: Explanation) -> None:
    left, top, right, _ = area
    low, high = explanation.score_range
    font = _font(16)
    draw.rounded_rectangle((left, top + 20, right, top + 34), radius=7, fill=_LINE)
    place = left + (right - left) * (explanation.score - low) / (high - low)
    draw.rounded_rectangle(
        (left, top + 20, max(place, left + 14), top + 34), radius=7, fill=tuple(_LOWERED.astype(int))
    )
    draw.text((left, top + 42), f"{low:g}", fill=_QUIET, font=font)
    draw.text((right, top + 42), f"{high:g}", fill=_QUIET, font=font, anchor="ra")
    _draw_marker(draw, place, top + 6, top + 38)


def _draw_marker(draw: ImageDraw.ImageDraw, x: float, top: float, bottom: float) -> None:
    draw.line((x, top, x, bottom), fill=_TEXT, width=3)
    draw.polygon([(x - 7, top - 4), (x + 7, top - 4), (x, top + 7)], fill=_TEXT)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # The font that comes with PIL: it knows ASCII and a few signs more, no multiplication sign, no dash.
    return ImageFont.load_default(size)


__all__ = ["draw_panels"]
