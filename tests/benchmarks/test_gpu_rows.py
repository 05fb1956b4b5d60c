"""The rows about a GPU: open where there is none, and code that runs on whatever there is."""

from __future__ import annotations

import torch
from transformers import Dinov2Config

from benchmarks.gpu_rows import ENCODERS, GOALS, gpu_rows
from benchmarks.table import Row


def test_without_a_gpu_every_row_is_printed_as_open(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = list(map(str, gpu_rows(tmp_path, repetitions=1)))
    assert [row.split("|")[1].strip() for row in rows] == list(GOALS)
    assert all("| open |" in row for row in rows)


def test_on_any_device_every_row_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, mode: model)  # minutes on a CPU
    tiny = Dinov2Config(hidden_size=12, num_attention_heads=1, num_hidden_layers=1, image_size=28, patch_size=14)
    rows = list(gpu_rows(tmp_path, 1, "cpu", dict.fromkeys(ENCODERS, tiny), photos=24, workers=0))
    assert all(isinstance(row, Row) for row in rows)
    assert [row.name for row in rows] == list(GOALS)
    assert all(row.ratio > 0 for row in rows)
