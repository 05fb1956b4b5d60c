import os
import subprocess
import sys
from pathlib import Path

import pytest

from charm_hf import files
from charm_hf.files import Lock, remove_folder, remove_leftovers, replaced_file, replaced_folder, write_json


def test_a_file_is_replaced_when_it_is_whole_and_stays_as_it_was_otherwise(tmp_path):
    target = tmp_path / "scores.csv"
    write_json(target, {"old": 1})
    before = target.read_bytes()

    def write_and_die():
        with replaced_file(target) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_die()
    assert target.read_bytes() == before
    with replaced_file(target) as unfinished:
        unfinished.write_text("whole")
        assert target.read_bytes() == before
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_two_that_replace_a_file_at_once_do_not_meet(tmp_path):
    target = tmp_path / ("x" * 250 + ".npy")  # no longer name would fit the file system
    with replaced_file(target) as one, replaced_file(target) as other:
        assert one != other
        assert one.suffix == ".npy"
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"


def test_a_folder_in_the_place_of_a_file_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"), replaced_file(tmp_path):
        pytest.fail("nothing should be written")


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "best"

    def write_and_die():
        with replaced_folder(target) as folder:
            (folder / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_die()
    assert not target.exists()
    with replaced_folder(target) as folder:
        assert not list(folder.iterdir())
        (folder / "b").write_text("whole")
    with replaced_folder(target) as folder:
        (folder / "c").write_text("newer")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_killed_processes_left_can_be_removed(tmp_path):
    (tmp_path / ".tmp-checkpoint-1").mkdir()
    (tmp_path / ".tmp-1234-run.json").write_text("half")
    (tmp_path / "kept").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    remove_folder(tmp_path / "kept")
    assert not list(tmp_path.iterdir())


# The other processes import the module alone: the package takes seconds.
HERE = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parent)}
HOLDER = """
import sys, time
from files import Lock
lock = Lock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_keeps_another_process_out_until_it_ends(tmp_path):
    path = tmp_path / "run.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, env=HERE) as other:
        other.stdout.readline()
        with pytest.raises(BlockingIOError, match="Another process holds"):
            Lock(path).acquire()
        other.kill()
        other.wait()
    with Lock(path).acquire(patience=5):
        pass
