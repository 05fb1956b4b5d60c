"""Collect the free photographs that Debian packages carry: nature, animals, monuments, things.

    apt-get download gcompris-qt-data mate-backgrounds plasma-workspace-wallpapers lxqt-themes palapeli-data
    for package in *.deb; do dpkg -x $package unpacked; done
    python -m studies.charm_tiny.debian_photos unpacked photos/debian

Their licences stand in `usr/share/doc/PACKAGE/copyright`. Drawings, screenshots and duplicates are left out by name
and content; the resource files of GCompris hold its photographs as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError


BACKGROUNDS = re.compile(
    r"mate/nature/(?!Wood)|palapeli/collection/\w+-\w+.*jpg|lxqt/wallpapers/(after|apple|beam|butterfl|cloud|drop|flow|fog"
    r"|Butterfly|Valendas)|wallpapers/(BytheWater|ColdRipple|ColorfulCups|DarkestHour|EveningGlow|FallenLeaf|Grey|Kite"
    r"|OneStandsOut|Path|Volna|summer_1am)/contents/images/(2560|5120)"
)
GCOMPRIS = re.compile(r"categorization|explore_|erase|clickgame")
PICTURE = re.compile(rb"\xff\xd8\xff[\xe0\xe1\xdb\xee]|RIFF....WEBP", re.DOTALL)
SMALLEST_SIDE, LARGEST_FILE = 200, 8_000_000


def carve(content: bytes) -> list[Image.Image]:
    """The photographs inside a Qt resource file: opaque, and no icons."""
    found = []
    for match in PICTURE.finditer(content):
        try:
            image = Image.open(io.BytesIO(content[match.start() : match.start() + LARGEST_FILE]))
            image.load()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            continue
        opaque = "A" not in image.mode or image.getchannel("A").getextrema()[0] >= 250
        if opaque and min(image.size) >= SMALLEST_SIDE:
            found.append(image.convert("RGB"))
    return found


def main() -> None:
    """Write them as JPEG, each once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path)
    parser.add_argument("output_dir", type=Path)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    seen = set()
    for path in sorted(path for path in args.unpacked.rglob("*") if path.is_file()):
        if BACKGROUNDS.search(path.as_posix()):
            images = [Image.open(path).convert("RGB")]
        elif path.suffix == ".rcc" and GCOMPRIS.search(path.name):
            images = carve(path.read_bytes())
        else:
            continue
        for image in images:
            digest = hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest()
            if digest not in seen:
                seen.add(digest)
                image.save(args.output_dir / f"{path.stem}-{digest[:8]}.jpg", quality=92)
    print(f"{len(seen)} photos in {args.output_dir}")


if __name__ == "__main__":
    main()
