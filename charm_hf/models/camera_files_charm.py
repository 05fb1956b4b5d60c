"""What cameras and phones write and PIL does not read by itself: RAW files and HEIC."""

from __future__ import annotations


RAW_EXTENSIONS = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"))
