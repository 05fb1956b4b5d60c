"""What leaves a command: no terminal obeys a file name, no spreadsheet runs one, and a full disk is exit code 3."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from image_files import encoded, photo_like
from typer.testing import CliRunner

from charm_hf.scoring.rows import ScoreRow
from charm_hf.scoring.sinks import open_table
from charm_hf.tables import Table, escape_controls
from charm_hf_cli import app


BOLD_AND_BELL = "\x1b[2J\x1b]0;owned\x07\x9b31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table_of(names: list[str], file: Path | io.StringIO) -> None:
    with open_table(file, ("path", "key", "score")) as write:
        write([ScoreRow(name, key=name, score=1.0) for name in names])


def test_no_cell_is_a_formula_and_a_path_still_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.jpg", "+x.jpg", "-x.jpg", "@SUM(A1).jpg", "\tx.jpg", "a=b.jpg", "-", "1-2.jpg"]
    for name in names:
        Path(name).write_bytes(b"")
    table_of(names, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    for name, row in zip(names, rows, strict=True):
        assert row["path"][0] not in "=+-@\t\r"
        assert row["key"][0] not in "=+-@\t\r"
        assert os.path.samefile(row["path"], name)
        assert row["key"].removeprefix("'") == name
    table_of(names, tmp_path / "scores.jsonl")
    assert [row["path"] for row in Table(tmp_path / "scores.jsonl").rows()] == names


def test_a_terminal_gets_no_character_that_it_would_obey_and_a_file_gets_the_name_as_it_is() -> None:
    name = f"a{BOLD_AND_BELL}\u202egpj.b\nc"
    shown, kept = Terminal(), io.StringIO()
    table_of([name], shown)
    table_of([name], kept)
    assert not set("\x1b\x07\x9b\u202e") & set(shown.getvalue())
    assert r"a\x1b[2J" in shown.getvalue()
    assert next(csv.DictReader(io.StringIO(kept.getvalue(), newline="")))["path"] == name
    assert escape_controls("é 漢字 🙂 plain") == "é 漢字 🙂 plain"


def test_messages_escape_the_names_of_files(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / f"x{BOLD_AND_BELL}.jpg").write_text("no photo")
    told = CliRunner().invoke(app, ["score", str(tmp_path), "--model", checkpoint])
    assert told.exit_code == 1
    assert not set("\x1b\x07\x9b") & set(told.stderr)
    assert r"\x1b[2J" in told.stderr


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder with a photo and the table of its score."""
    (tmp_path / "photo.png").write_bytes(encoded("PNG", photo_like(60, 40)))
    (tmp_path / "scores.csv").write_text("path,score,normalized_score\nphoto.png,1,0.5\n")
    return tmp_path


def ends_for_lack_of_room(command: list[object], **options: object) -> None:
    done = subprocess.run([*map(str, command)], stderr=subprocess.PIPE, text=True, **options)
    assert done.returncode == 3, (command, done.stderr)
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.slow
def test_a_full_disk_under_standard_output_is_exit_code_3(warm_commands: Path, checkpoint: str, scored: Path) -> None:
    photo, table = scored / "photo.png", scored / "scores.csv"
    with open("/dev/full", "w") as full:
        for arguments in (
            ["score", photo, "--model", checkpoint],
            ["select", table, "--top", 1],
            ["report", table, "--output", scored / "report.html", "--thumbnails", "none"],
            ["models"],
            ["--version"],
        ):
            ends_for_lack_of_room([warm_commands / "charm-hf", *arguments], stdout=full)


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs a file system of its own")
@pytest.mark.slow
def test_a_full_disk_is_exit_code_3_from_every_command_that_writes(
    warm_commands: Path, checkpoint: str, scored: Path
) -> None:
    disk, photo, table, own = (scored / name for name in ("disk", "photo.png", "scores.csv", "own.csv"))
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    fixtures = Path(__file__).parents[1] / "fixtures" / "legacy"
    pickles = [fixtures / "legacy_aadb.pth", disk / "out", "--position-embeddings", fixtures / "legacy_aadb_pos.pt"]
    try:
        (disk / "ballast").write_bytes(bytes(8192))
        for arguments in (
            *(["score", photo, "--model", checkpoint, "--output", disk / f"s.{end}"] for end in ("csv", "parquet")),
            ["score", photo, "--model", checkpoint, "--output", own, "--top", 1, "--copy-to", disk / "best"],
            *(["select", table, "--output", disk / f"s.{end}"] for end in ("csv", "jsonl")),
            ["select", table, "--copy-to", disk / "best", "--output", scored / "chosen.csv"],
            ["report", table, "--output", disk / "report.html"],
            *(["explain", photo, "--model", checkpoint, "--output", disk / f"why.{end}"] for end in ("png", "jpg")),
            ["convert", *pickles, "--dataset", "aadb"],
        ):
            ends_for_lack_of_room([warm_commands / "charm-hf", *arguments], stdout=subprocess.DEVNULL)
        left = {path.name for path in disk.iterdir() if path.is_file() and not path.name.endswith(".lock")}
        assert left == {"ballast"}
    finally:
        subprocess.run(["umount", disk], check=True)
