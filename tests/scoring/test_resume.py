import errno
import json
import os
import shutil
import signal
import subprocess

import pytest

from charm_hf.scoring import PathSource, Scorer, TableOptions, batching, engine, load_for_scoring, score_to_table
from charm_hf.scoring.progress import DamagedProgressError, JobMismatchError


@pytest.fixture
def score(checkpoint, many_photos, monkeypatch):
    """Score the photos into a file in this process, 16 to a chunk."""
    monkeypatch.setattr(batching, "CHUNK_IMAGES", 16)
    model, processor = load_for_scoring(str(checkpoint), device="cpu")

    def run_(output, options=engine.ScoringOptions(), table=None, paths=(many_photos,), **kwargs):  # noqa: B008
        return score_to_table(PathSource(paths), Scorer(model, processor, options), output, table, **kwargs)

    run_.model, run_.processor = model, processor
    return run_


@pytest.fixture
def whole(score, tmp_path):
    """The table of a run that nothing interrupted."""
    score(tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def progress_of(output):
    return output.with_name(output.name + ".progress")


class Crash(BaseException):
    """What no code catches."""


def crash_after(batches, error=Crash):
    """Make a run die when it has scored so many batches."""
    scored = 0
    forward = engine.Scorer.answer

    def dying_forward(self, inputs):
        nonlocal scored
        scored += 1
        if scored > batches:
            raise error
        return forward(self, inputs)

    return dying_forward


def crash_before(target, replace=os.replace):
    """Make a run die when it is about to give a file its name."""

    def dying_replace(source, file):
        if file == target:
            raise Crash
        replace(source, file)

    return dying_replace


def damage_file(file, damage):
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-300]), "empty": b""}[damage])


def interrupted(score, output, monkeypatch):
    """Let a run die in the middle."""
    with monkeypatch.context() as patch:
        patch.setattr(engine.Scorer, "answer", crash_after(30))
        with pytest.raises(Crash):
            score(output)


def test_a_run_leaves_only_the_table_and_its_lock(score, tmp_path, many_photos):
    summary = score(tmp_path / "out" / "scores.csv")
    assert (summary.images, summary.failed) == (120, 4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores.csv",
        ".scores.csv.lock",
        ".scores.csv.rows",
    }
    assert not list(many_photos.glob("*.progress*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_finishes_the_batch_and_says_how_to_go_on(
    command, checkpoint, many_photos, whole, tmp_path, number
):
    output = tmp_path / "scores.csv"
    arguments = ["score", many_photos, "--model", checkpoint, "--output", output, "--device", "cpu"]
    for _ in range(5):  # until the signal meets a chunk that has begun, which a busy machine may put off
        process = command(*arguments, slowness=0.1)
        process.wait_for(lambda: list(progress_of(output).glob("parts/[0-9]*-*.jsonl")))
        process.wait(0.25)  # into the next chunk
        process.send(number)
        assert process.wait() == 128 + number
        assert "the same command goes on from there" in process.messages
        assert not output.exists()
        partial = list(progress_of(output).glob("parts/*.partial.jsonl"))
        if partial:
            break
        shutil.rmtree(progress_of(output))
    assert partial, "the rows of the running batch were thrown away"
    assert command(*arguments).wait() == 1
    assert output.read_bytes() == whole


def test_what_is_finished_is_not_scored_again(score, tmp_path, monkeypatch, whole):
    interrupted(score, tmp_path / "scores.csv", monkeypatch)
    finished = len(list(progress_of(tmp_path / "scores.csv").glob("parts/[0-9]*-*.jsonl"))) * 16
    assert finished > 0
    scored = []
    fill = engine.Scorer._fill
    monkeypatch.setattr(
        engine.Scorer, "_fill", lambda self, chunk, batch: (scored.extend(batch.places), fill(self, chunk, batch))
    )
    assert score(tmp_path / "scores.csv").resumed == finished
    assert len(scored) <= 120 - finished
    assert (tmp_path / "scores.csv").read_bytes() == whole


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_part_is_noticed_and_scored_again(score, tmp_path, monkeypatch, whole, caplog, damage):
    output = tmp_path / "scores.csv"
    interrupted(score, output, monkeypatch)
    part = sorted(progress_of(output).glob("parts/[0-9]*-*.jsonl"))[0]
    damage_file(part, damage)
    score(output)
    assert "is damaged. Its images are scored again." in caplog.text
    assert output.read_bytes() == whole


@pytest.mark.parametrize("name", ["job.jsonl", "listing.jsonl"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damage_to_what_the_run_is_of_stops_it_until_it_is_restarted(
    score, tmp_path, monkeypatch, whole, name, damage
):
    output = tmp_path / "scores.csv"
    interrupted(score, output, monkeypatch)
    damage_file(progress_of(output) / name, damage)
    with pytest.raises(DamagedProgressError, match=rf"{name}' is damaged. Begin anew with --restart"):
        score(output)
    score(output, restart=True)
    assert output.read_bytes() == whole


def test_rows_of_a_run_that_nobody_knows_are_not_taken_up(score, tmp_path, monkeypatch, whole):
    output = tmp_path / "scores.csv"
    interrupted(score, output, monkeypatch)
    (progress_of(output) / "job.jsonl").unlink()
    assert score(output).resumed == 0
    assert output.read_bytes() == whole


def test_an_output_that_is_a_folder_is_found_before_anything_is_scored(score, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.Scorer, "answer", crash_after(0))
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="scores.csv' is a folder"):
        score(tmp_path / "scores.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_a_full_disk_keeps_what_is_scored(score, tmp_path, monkeypatch, whole):
    output = tmp_path / "scores.csv"
    calls = 0
    fsync = os.fsync

    def full_disk(descriptor):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            score(output)
    assert not output.exists()
    assert not list(progress_of(output).glob("parts/.tmp-*"))
    score(output)
    assert output.read_bytes() == whole


def test_on_a_full_file_system_it_exits_with_3_and_goes_on_when_there_is_room(
    command, checkpoint, many_photos, whole, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        output = disk / "scores.csv"
        (disk / "ballast").write_bytes(b"\0" * 120_000)
        arguments = ["score", many_photos, "--model", checkpoint, "--output", output, "--device", "cpu"]
        full = command(*arguments)
        assert full.wait() == 3, full.messages
        assert "No space left on device" in full.messages
        assert not output.exists()
        (disk / "ballast").unlink()
        assert command(*arguments).wait() == 1
        assert output.read_bytes() == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_another_model_preprocessing_or_folder_is_refused_unless_restarted(
    score, tmp_path, monkeypatch, whole, many_photos
):
    output = tmp_path / "scores.csv"
    interrupted(score, output, monkeypatch)
    with pytest.raises(JobMismatchError, match="this changed: preprocessing.*--restart"):
        score(output, engine.ScoringOptions(processor_parameters={"patch_selection": "entropy"}))
    with pytest.raises(JobMismatchError, match="this changed: options"):
        score(output, engine.ScoringOptions(num_views=2))
    with pytest.raises(JobMismatchError, match="this changed: images"):
        score(output, paths=[many_photos / "*.jpg"])
    score.model.classifier.bias.data[0] += 1
    with pytest.raises(JobMismatchError, match="this changed: model"):
        score(output)
    score(output, restart=True)
    assert output.read_bytes() != whole
    score.model.classifier.bias.data[0] -= 1


def test_workers_and_what_the_table_shows_may_change_in_between(score, tmp_path, monkeypatch):
    interrupted(score, tmp_path / "scores.csv", monkeypatch)
    score(tmp_path / "scores.csv", table=TableOptions(distribution=True))
    score(tmp_path / "expected.csv", table=TableOptions(distribution=True))
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_photos_that_come_or_go_in_between_change_neither_the_list_nor_the_other_rows(
    score, tmp_path, monkeypatch, whole, many_photos
):
    folder = tmp_path / "photos"
    shutil.copytree(many_photos, folder)
    interrupted(lambda output: score(output, paths=[folder]), tmp_path / "scores.csv", monkeypatch)
    shutil.copy(folder / "000.jpg", folder / "000b.jpg")
    (folder / "119.jpg").unlink()
    score(tmp_path / "scores.csv", paths=[folder])
    lines = (tmp_path / "scores.csv").read_text().replace(str(folder), str(many_photos)).splitlines()
    expected = whole.decode().splitlines()
    assert len(lines) == len(expected)
    assert [line.split(",")[0] for line in lines] == [line.split(",")[0] for line in expected]
    assert lines[:60] == expected[:60]
    assert "No such file" in lines[-1]


def test_two_runs_cannot_write_the_same_table(command, checkpoint, many_photos, tmp_path):
    arguments = ["score", many_photos, "--model", checkpoint, "--output", tmp_path / "scores.csv"]
    first = command(*arguments, slowness=0.3)
    first.wait_for(lambda: (tmp_path / "scores.csv.progress" / "listing.jsonl").exists())
    second = command(*arguments)
    assert second.wait() == 2
    assert "Another process is writing" in second.messages


def test_the_progress_is_json_and_holds_no_pickle(score, tmp_path, monkeypatch):
    interrupted(score, tmp_path / "scores.csv", monkeypatch)
    files = [path for path in progress_of(tmp_path / "scores.csv").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".jsonl"}
    assert all(json.loads(line) for path in files for line in path.read_text().splitlines())
    assert set(json.loads((progress_of(tmp_path / "scores.csv") / "job.jsonl").read_text())) == {
        "comments",
        "device",
        "images",
        "model",
        "options",
        "preprocessing",
        "sha256",
        "software",
    }


def test_an_old_table_stays_until_the_new_one_is_whole(score, tmp_path, monkeypatch, whole):
    output = tmp_path / "scores.csv"
    output.write_text("old")
    interrupted(score, output, monkeypatch)
    assert output.read_text() == "old"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_before(output))
        with pytest.raises(Crash):
            score(output)
    assert output.read_text() == "old"
    score(output)
    assert output.read_bytes() == whole
