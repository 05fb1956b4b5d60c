"""Images by URL: fetched only where that is allowed, once, within bounds, and never from where a stranger points."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_process import CommandProcess
from image_files import encoded, photo_like

from charm_hf.models import image_urls_charm
from charm_hf.models.image_loading_charm import load_image
from charm_hf.models.image_urls_charm import fetch_url
from charm_hf.scoring import score_images


PHOTO = encoded("PNG", photo_like(60, 40))


class Server:
    """Answers on this machine, and counts who asked for what."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.leads_to = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked[self.path] += 1
                getattr(self, f"answer_{self.path.strip('/').partition('.')[0].partition('?')[0]}")()

            def answer_photo(self) -> None:
                self.reply(200, PHOTO)

            def answer_elsewhere(self) -> None:
                self.reply(302, b"", location=outer.leads_to)

            def answer_endless(self) -> None:
                self.reply(200, b"", length=10**12)
                while True:
                    self.wfile.write(bytes(2**16))

            def answer_slow(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Nothing: ")
                for _ in range(600):
                    self.wfile.write(b"x")
                    time.sleep(0.1)

            def reply(self, status: int, content: bytes, location: str = "", length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(content) if length is None else length))
                if location:
                    self.send_header("location", location)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:  # those that were hung up on
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    started = Server()
    yield started
    started.server.shutdown()
    started.server.server_close()


def table_of(folder: Path, *urls: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text("\n".join(["path", *urls]))
    return folder / "table.csv"


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_url_in_a_table_is_an_error_unless_urls_are_allowed_wherever_the_table_lies(
    server: Server, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    table = table_of(tmp_path / "tables", f"{server.url}/photo.png", f"{server.url}/photo.png?size=1*[2]")
    if place == "here":
        monkeypatch.chdir(table.parent)
        table = Path(table.name)
    for row in score_images(str(table), checkpoint):
        assert "--allow-urls" in row.error
    assert not server.asked
    rows = list(score_images(str(table), checkpoint, allow_urls=True))
    assert [row.error for row in rows] == [None, None]
    assert rows[0].path == f"{server.url}/photo.png"
    assert (rows[0].width, rows[0].score) == (60, rows[1].score)
    assert set(server.asked.values()) == {1}, "fetched once, for header and pixels"


def test_a_url_as_an_argument_in_a_list_and_in_a_column_follows_the_same_rule(
    server: Server, checkpoint: str, tmp_path: Path
) -> None:
    from datasets import Dataset, Image

    url = f"{server.url}/photo.png"
    for images in (url, [url, url], Dataset.from_dict({"image": [url]}).cast_column("image", Image())):
        assert all("--allow-urls" in row.error for row in score_images(images, checkpoint))
    assert not server.asked
    (row,) = score_images(url, checkpoint, allow_urls=True)
    assert row.error is None


def test_a_server_here_may_be_named_but_nobody_is_led_to_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_image(f"{server.url}/photo.png").size == (60, 40)
    private = ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "[::1]", "0.0.0.0", "2130706433"]
    targets = [f"http://{host}:{server.server.server_port}/photo.png" for host in private]
    for server.leads_to in [*targets, "/photo.png", "file:///etc/passwd", "ftp://example.org/x", "http://", ""]:
        before = server.asked["/photo.png"]
        with pytest.raises(ValueError, match="elsewhere.*no public address"):
            fetch_url(f"{server.url}/elsewhere")
        assert server.asked["/photo.png"] == before
    monkeypatch.setattr(image_urls_charm, "_is_public", lambda host: True)  # as if the name were looked up anew
    server.leads_to = f"{server.url}/photo.png"
    with pytest.raises(ValueError, match="no public address"):
        fetch_url(f"{server.url}/elsewhere")


def test_an_endless_answer_and_a_slow_one_are_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_urls_charm, "MAX_BYTES", 10**6)
    with pytest.raises(ValueError, match=r"endless.* more than the 1,000,000 bytes"):
        fetch_url(f"{server.url}/endless.png")
    monkeypatch.setattr(image_urls_charm, "MAX_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(ValueError, match="slow.*more than 0.5 seconds"):
        fetch_url(f"{server.url}/slow.png")
    assert time.monotonic() - started < 5


def test_what_does_not_answer_is_an_error_that_names_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for url in ("http://127.0.0.1:1/x.png", "http://", "https://[::bad/x", "http://a b/"):
        with pytest.raises(ValueError, match="cannot be fetched"):
            fetch_url(url)


def test_nothing_that_was_fetched_stays_on_disk(
    server: Server, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = list(score_images([f"{server.url}/photo.png"] * 3, checkpoint, allow_urls=True))
    assert [row.error for row in rows] == [None] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_signal_is_heeded_while_a_server_takes_its_time(
    server: Server, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    table = table_of(tmp_path, *[f"{server.url}/slow.png?{number}" for number in range(40)])
    output = tmp_path / "scores.csv"
    run = CommandProcess(["score", table, "--model", checkpoint, "--allow-urls", "--output", output], tmp_path / "log")
    run.wait_for(lambda: server.asked)
    sent = time.monotonic()
    run.send(signal.SIGTERM)
    assert run.wait(30) == 128 + signal.SIGTERM, run.messages
    assert time.monotonic() - sent < 20
    assert not output.exists()
    parts = list((tmp_path / "scores.csv.progress" / "parts").glob("*"))
    assert not any(json.loads(line) for part in parts for line in part.read_text().splitlines()[:-1])
