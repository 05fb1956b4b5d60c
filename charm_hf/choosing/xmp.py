"""Ratings where photo programs look: XMP in a file beside a photo, or inside a JPEG, merged into what is there.

A property is set where it is absent (a rating of 0 is none), or where it is ours: `charm:GivenRating` beside
`xmp:Rating` remembers what we wrote, so that a rating that a person has changed since is theirs. All else stays.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ..files import write_bytes
from ..models.camera_files_charm import RAW_EXTENSIONS


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_CHARM = "urn:charm-hf"
_NEW = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="charm-hf">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()

_APP1, _APP2, _SCAN, _END = 0xE1, 0xE2, 0xDA, 0xD9
_PACKET_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_SEGMENT = 65_535
_HEAD_BYTES = 4 << 20


def rate(
    photo: str | os.PathLike[str], wanted: Mapping[str, str], *, embed: bool = False, backup: bool = False
) -> bool:
    """Set properties of the XMP namespace, such as `{"Rating": "4", "Label": "Green"}`, for a photo.

    They go into `photo.jpg.xmp`, where darktable and digiKam look; for a RAW file also into `photo.xmp`, where
    Lightroom and Capture One look.

    Args:
        photo: the file.
        wanted: property to value.
        embed: into the photo itself if it is a JPEG, whose pixels stay as they are.
        backup: keep an existing file as `NAME_original` before it is changed for the first time.

    Returns:
        Whether they are there now: `False` if a person's rating, or XMP that cannot be merged, was left alone.
    """
    photo = Path(os.path.realpath(photo))
    content = _read_head(photo)
    inside = _find_packet(content)
    if inside is not None and merge(content[slice(*inside)], wanted) is None:
        return False
    if embed and content.startswith(b"\xff\xd8"):
        changed = {photo: _embedded(photo.read_bytes(), wanted)}
    else:
        changed = {file: merge(file.read_bytes() if file.exists() else _NEW, wanted) for file in sidecars(photo)}
    if None in changed.values():
        return False
    for file, merged in changed.items():
        assert merged is not None
        if not file.exists() or file.read_bytes() != merged:
            _replace(file, merged, backup)
    return True


def read_rating(photo: str | os.PathLike[str]) -> int | None:
    """A person's rating of a photo, 1 to 5 or -1 for rejected; `None` if there is none, or ours only."""
    content = _read_head(Path(photo))
    inside = _find_packet(content)
    packets = [file.read_bytes() for file in sidecars(Path(photo)) if file.exists()]
    for packet in [*packets, *([] if inside is None else [content[slice(*inside)]])]:
        found = _properties(packet) or {}
        if _is_theirs("Rating", found):
            with suppress(ValueError):
                return round(float(found[f"{{{_XMP}}}Rating"]))
    return None


def sidecars(photo: Path) -> list[Path]:
    """Files beside a photo that hold its XMP."""
    names = [f"{photo.name}.xmp", *([f"{photo.stem}.xmp"] if photo.suffix.lower() in RAW_EXTENSIONS else [])]
    return [photo.with_name(name) for name in names]


def merge(packet: bytes, wanted: Mapping[str, str]) -> bytes | None:
    """Set properties in an XMP packet, byte for byte the same elsewhere.

    Returns:
        The packet, `None` if a property is somebody else's, or the packet is not of a form that is understood.
    """
    before = _properties(packet)
    if before is None:
        return None
    merged, expected = packet, dict(before)
    for name, value in wanted.items():
        if _is_theirs(name, before):
            return None
        for space, prefix, known in ((_CHARM, "charm", f"Given{name}"), (_XMP, "xmp", name)):
            write = _replaced if f"{{{space}}}{known}" in before else _inserted
            merged = write(merged, space, prefix, known, value)
            expected[f"{{{space}}}{known}"] = value
    return merged if _properties(merged) == expected else None


def _is_theirs(name: str, found: Mapping[str, str]) -> bool:
    """Whether a property is there and not what we wrote."""
    value = found.get(f"{{{_XMP}}}{name}", "")
    unrated = name == "Rating" and re.fullmatch(r"0(\.0*)?", value)
    return bool(value) and not unrated and value != found.get(f"{{{_CHARM}}}Given{name}")


def _escaped(value: str) -> bytes:
    return escape(value, {'"': "&quot;", "'": "&apos;"}).encode()


def _properties(packet: bytes) -> dict[str, str] | None:
    """Simple properties of a packet by their full names; `None` if it cannot be read."""
    try:
        if b"<!" in packet.replace(b"<!--", b""):  # no XMP has a document type, whose entities could grow
            return None
        packet.decode("utf-8")
        root = ElementTree.fromstring(packet)
    except (ElementTree.ParseError, UnicodeDecodeError):
        return None
    found: dict[str, str] = {}
    for rdf in root.iter(f"{{{_RDF}}}RDF"):
        for description in rdf.findall(f"{{{_RDF}}}Description"):
            for name, value in [*description.items(), *((child.tag, child.text or "") for child in description)]:
                found.setdefault(name, value.strip())
    return found


def _prefix(packet: bytes, space: str) -> bytes | None:
    found = re.search(rb'xmlns:([\w.-]+)\s*=\s*["\']' + re.escape(space.encode()) + rb'["\']', packet)
    return None if found is None else found[1]


def _inserted(packet: bytes, space: str, prefix: str, name: str, value: str) -> bytes:
    """The packet with one attribute more on its first description."""
    start = re.search(
        rb"<" + re.escape(_prefix(packet, _RDF) or b"rdf") + rb""":Description(?=[\s/>])(?:[^>"']|"[^"]*"|'[^']*')*""",
        packet,
    )
    if start is None:
        return packet
    taken = _prefix(start[0], space)
    declared = b"" if taken is not None else f' xmlns:{prefix}="{space}"'.encode()
    known = (taken or prefix.encode()).decode()
    place = start.start() + start[0].index(b":Description") + len(b":Description")
    return packet[:place] + declared + f' {known}:{name}="'.encode() + _escaped(value) + b'"' + packet[place:]


def _replaced(packet: bytes, space: str, prefix: str, name: str, value: str) -> bytes:
    """The packet with another value of an attribute or an element that it has."""
    tag = re.escape((_prefix(packet, space) or prefix.encode()) + b":" + name.encode())
    pattern = rb"""((?<=\s)%b\s*=\s*["']|<%b>)[^<"']*""" % (tag, tag)
    return re.sub(pattern, lambda found: found[1] + _escaped(value), packet, count=1)


def _read_head(photo: Path) -> bytes:
    with open(photo, "rb") as file:
        return file.read(_HEAD_BYTES)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of the segments of a JPEG before its pixels."""
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] not in (_SCAN, _END):
        if content[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        yield content[place + 1], place, end
        place = end


def _find_packet(content: bytes) -> tuple[int, int] | None:
    """Start and end of the XMP packet inside a JPEG."""
    for kind, start, end in _segments(content):
        if kind == _APP1 and content.startswith(_PACKET_HEADER, start + 4):
            return start + 4 + len(_PACKET_HEADER), end
    return None


def _embedded(content: bytes, wanted: Mapping[str, str]) -> bytes | None:
    """A JPEG with properties in its packet; a new packet goes before everything but its JFIF and EXIF data."""
    inside = _find_packet(content)
    packet = merge(_NEW if inside is None else content[slice(*inside)], wanted)
    if packet is None:
        return None
    start = end = 2
    if inside is not None:
        start, end = inside[0] - len(_PACKET_HEADER) - 4, inside[1]
        grown = len(packet) - (inside[1] - inside[0])
        padding = re.search(rb"\s*(?=<\?xpacket end)", packet)
        if padding is not None and grown > 0 and len(padding[0]) >= grown:
            packet = packet[: padding.end() - grown] + packet[padding.end() :]
        elif any(kind == _APP2 and content.startswith(b"MPF\0", place + 4) for kind, place, _ in _segments(content)):
            return None  # further pictures behind this one are found by their distance, which must stay
    else:
        for kind, place, after in _segments(content):
            if kind == 0xE0 or (kind == _APP1 and content.startswith(b"Exif\0", place + 4)):
                start = end = after
            else:
                break
    length = 2 + len(_PACKET_HEADER) + len(packet)
    if length > _MAX_SEGMENT:
        return None
    segment = bytes([0xFF, _APP1]) + length.to_bytes(2, "big") + _PACKET_HEADER + packet
    return content[:start] + segment + content[end:]


def _replace(file: Path, content: bytes, backup: bool) -> None:
    mode = file.stat().st_mode if file.exists() else None
    original = file.with_name(f"{file.name}_original")
    if backup and mode is not None and not original.exists():
        shutil.copy2(file, original)
    write_bytes(file, content)
    if mode is not None:
        file.chmod(mode)


__all__ = ["merge", "rate", "read_rating", "sidecars"]
