"""`charm-hf explain`, `charm-hf report` and `charm-hf demo`, as typed."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from camera_photos import save_taken, scene
from PIL import Image
from support import photo_path
from typer.testing import CliRunner

from charm_hf_cli import app


def charm_hf(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_table_becomes_a_page(checkpoint, tmp_path):
    for name in ("coffee", "chelsea"):
        (tmp_path / f"{name}.png").symlink_to(photo_path(name))
    (tmp_path / "broken.jpg").write_text("not a photo")
    scored = charm_hf("score", tmp_path, "--model", checkpoint, "--output", tmp_path / "scores.csv")
    assert scored.exit_code == 1

    done = charm_hf("report", tmp_path / "scores.csv", "-o", tmp_path / "report.html", "--title", "Two & one")

    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "report.html")
    assert "2 photos, 1 failures" in done.stderr
    assert "<title>Two &amp; one</title>" in (tmp_path / "report.html").read_text()


def test_a_page_shows_series_as_stacks_and_why(checkpoint, tmp_path):
    for second in range(2):
        save_taken(scene(1), tmp_path / f"{second}.jpg", f"2024:05:01 12:00:0{second}")
    charm_hf("score", tmp_path, "--model", checkpoint, "--output", tmp_path / "scores.csv")

    done = charm_hf(
        *("report", tmp_path / "scores.csv", "-o", tmp_path / "report.html", "--stacks"),
        *("--explain", 1, "--model", checkpoint, "--device", "cpu"),
    )

    assert done.exit_code == 0, done.output
    data = json.loads(re.search(r'id="data">(.*)</script>', (tmp_path / "report.html").read_text())[1])
    series = [row[data["columns"].index("series")] for row in data["rows"]]
    assert series[0] == series[1] is not None
    assert data["explained"] == [0, 1]


def test_a_table_that_is_not_there_ends_with_2(tmp_path):
    done = charm_hf("report", tmp_path / "none.csv", "-o", tmp_path / "report.html")

    assert done.exit_code == 2
    assert "no score table" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_photo_becomes_a_picture_of_its_score(checkpoint, tmp_path):
    mask = Image.new("L", (600, 400))
    mask.paste(255, (100, 100, 300, 300))
    mask.save(tmp_path / "mask.png")
    common = ["explain", photo_path("coffee"), "--model", checkpoint, "--steps", 1, "-o"]

    plain = charm_hf(*common, tmp_path / "plain.png", "--num-views", 2)
    masked = charm_hf(*common, tmp_path / "masked.png", "--saliency-map", tmp_path / "mask.png")

    assert (plain.exit_code, masked.exit_code) == (0, 0), (plain.output, masked.output)
    assert plain.stdout.strip() == str(tmp_path / "plain.png")
    assert Image.open(tmp_path / "plain.png").width > 1000
    compared = charm_hf(*common, tmp_path / "mean.png", "--against", "mean", "--method", "occlusion")
    assert compared.exit_code == 0, compared.output
    assert Image.open(tmp_path / "plain.png").tobytes() != Image.open(tmp_path / "masked.png").tobytes()


def test_what_to_install_is_said_where_matplotlib_is_missing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "charm_hf.look.explain_picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    done = charm_hf("explain", photo_path("coffee"), "--model", checkpoint, "-o", tmp_path / "out.png")

    assert done.exit_code == 2
    assert "pip install 'charm-hf[look]'" in done.stderr


def test_a_photo_that_is_not_there_ends_with_2(checkpoint, tmp_path):
    done = charm_hf("explain", tmp_path / "none.jpg", "--model", checkpoint, "-o", tmp_path / "out.png")

    assert done.exit_code == 2
    assert "none.jpg" in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_the_demo_says_where_it_runs_and_stops_at_ctrl_c(checkpoint):
    pytest.importorskip("gradio", reason="needs the extra `charm-hf[demo]`")
    command = [sys.executable, "-m", "charm_hf_cli", "demo", "--model", checkpoint, "--device", "cpu"]

    def heed_ctrl_c() -> None:  # which a shell's background jobs ignore, and so would their children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c) as process:
        try:
            line = next(line for line in process.stderr if "runs at" in line)
            url = line.split("runs at ")[1].split(". ")[0]
            assert urllib.request.urlopen(url, timeout=10).status == 200

            process.send_signal(signal.SIGINT)

            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
