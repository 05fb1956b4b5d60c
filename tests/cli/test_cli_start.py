"""The command line starts fast: what needs no model imports neither torch nor transformers."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from charm_hf.choosing.delivery import STARS, XMP_PLACES
from charm_hf.look.contributions import AGAINST, METHODS
from charm_hf.look.report import THUMBNAILS
from charm_hf.models.patch_selection_charm import SELECTIONS
from charm_hf.models.presets_charm import DATASET_PRESETS
from charm_hf.tables import WRITTEN_SUFFIXES
from charm_hf_cli import app, support


COMMANDS = (
    "score",
    "select",
    "compare-ratings",
    "personalize",
    "convert",
    "push",
    "pull",
    "models",
    "explain",
    "report",
    "demo",
    "serve",
)

# Runs the command, then says what it took and what it imported.
MEASURE = """
import json, resource, sys
from charm_hf_cli import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
seconds = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps({"code": code, "seconds": seconds, "heavy": heavy}), file=sys.stderr)
"""


def measure(*arguments, then=""):
    done = subprocess.run([sys.executable, "-c", MEASURE + then, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{"))), done.stdout


@pytest.fixture
def table(tmp_path):
    Image.new("RGBA", (90, 60), (200, 80, 20, 128)).save(tmp_path / "photo.png")
    (tmp_path / "scores.csv").write_text("path,score,error\nphoto.png,5.5,\nlost.jpg,,broken\n")
    return tmp_path / "scores.csv"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS]])
def test_help_and_version_answer_within_half_a_second_of_processor_time(arguments):
    runs = [measure(*arguments)[0] for _ in range(2)]

    assert all(run["code"] == 0 and run["heavy"] == [] for run in runs)
    assert min(run["seconds"] for run in runs) < 0.5


def test_every_command_is_measured():
    assert set(COMMANDS) == {name for group in app.registered_groups for name in names_of(group.typer_instance)}


def names_of(group):
    return [command.name or command.callback.__name__ for command in group.registered_commands]


def test_the_version_is_that_of_the_package():
    import charm_hf

    assert measure("--version")[1].strip() == charm_hf.__version__


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_report_is_made_without_torch_and_transformers(table, ending):
    import pyarrow.csv
    import pyarrow.parquet

    rows = pyarrow.csv.read_csv(table)
    pyarrow.parquet.write_table(rows, table.with_suffix(".parquet"))
    table.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))

    run, page = measure("report", table.with_suffix(f".{ending}"), "-o", table.with_name("report.html"))

    assert (run["code"], run["heavy"]) == (0, [])
    assert page.strip() == str(table.with_name("report.html"))


def test_photos_are_chosen_without_torch_and_transformers(table):
    run, rows = measure("select", table, "--top", 1, "--write-xmp")

    assert (run["code"], run["heavy"]) == (0, [])
    assert rows.splitlines()[1].startswith("photo.png,5.5")
    assert table.with_name("photo.png.xmp").exists()


def test_the_models_are_listed_without_torch_and_transformers():
    table, printed = measure("models")
    listed = measure("models", "--json")[1]

    assert (table["code"], table["heavy"]) == (0, [])
    assert printed.count("FatemehBehrad/Charm --subfolder ") == 7
    assert [known["place"] for known in json.loads(listed)].count("published") == 7


def test_the_package_registers_when_it_is_imported_after_a_light_command(table):
    then = """
import charm_hf.look.report
from transformers import AutoConfig
assert AutoConfig.for_model("charm").model_type == "charm"
assert charm_hf.look.report.write_report and charm_hf.CharmConfig
"""
    measure("report", table, "-o", table.with_name("report.html"), then=then)


def test_the_names_in_the_help_are_those_of_the_package():
    assert tuple(sorted(DATASET_PRESETS)) == support.DATASETS
    assert tuple(name for name, selection in SELECTIONS.items() if not selection.needs_map) == support.SELECTIONS
    assert (support.THUMBNAILS, support.TABLES) == (THUMBNAILS, WRITTEN_SUFFIXES)
    assert (support.AGAINST, support.METHODS) == (AGAINST, METHODS)
    assert (support.STARS, support.XMP_PLACES) == (STARS, XMP_PLACES)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["score", "photo.png", "--device", "tpu9"], "--device tpu9 cannot be used here"),
        (["explain", "photo.png", "-o", "why.png", "--device", "vulkan"], "--device vulkan cannot be used here"),
        (["score", "photo.png", "--model", "runs/nowhere"], "runs/nowhere is not in the cache and no folder here"),
        (["score", "photo.png", "--model", "./nowhere"], "./nowhere is neither a folder"),
        (["score", "*.png", "none/*.jpg"], "nothing matches the pattern 'none/*.jpg'"),
        (["report", "nowhere.csv", "-o", "report.html"], "nowhere.csv"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(table, monkeypatch, arguments, reason):
    monkeypatch.chdir(table.parent)

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
