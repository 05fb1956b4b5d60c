"""The local page: what it does with uploads, and what a person sees of it in a real browser."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import mmlq_fixtures
import numpy as np
import pytest
from headless_chromium import open_chromium
from PIL import Image
from support import photo_path, tiny_model, tiny_processor

from charm_hf import ImageAestheticsPipeline
from charm_hf.look.demo import _is_this_machine, _name_checkpoints, launch_demo, load_pipeline
from charm_hf.look.uploads import DemoLimits, score_photos


LIMITS = DemoLimits(max_files=4, max_megabytes=1, max_megapixels=2)
HOSTILE = "<img src=x onerror=window.hacked=1>.jpg"


@pytest.fixture(scope="module")
def pipeline():
    model = tiny_model("dinov2", score_quantiles=[1.0, 3.0, 10.0])
    return ImageAestheticsPipeline(model=model, image_processor=tiny_processor(model, max_num_patches=400))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "tiny-ava"
    model = tiny_model("dinov2")
    model.save_pretrained(folder)
    tiny_processor(model, max_num_patches=400).save_pretrained(folder)
    return str(folder)


def test_photos_are_ranked_and_a_broken_one_says_why(pipeline, tmp_path):
    (tmp_path / HOSTILE).write_text("not a photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    paths = [photo_path("coffee"), str(tmp_path / HOSTILE), photo_path("astronaut"), str(tmp_path / "empty.jpg")]

    photos = score_photos(paths, pipeline)

    scores = [photo.result["score"] for photo in photos[:2]]
    assert scores == sorted(scores, reverse=True)
    assert {photo.name for photo in photos[:2]} == {"coffee.png", "astronaut.png"}
    assert [photo.problem for photo in photos[2:]] == [
        "The file is not an image that PIL can read.",
        "The file is empty: zero bytes.",
    ]


def test_a_score_is_the_pipelines_own_with_the_chosen_selection_and_views(pipeline):
    path = photo_path("coffee")

    plain = score_photos([path], pipeline)[0].result
    chosen = score_photos([path], pipeline, selection="original", num_views=1)[0].result
    several = score_photos([path], pipeline, num_views=4)[0].result

    assert plain == pipeline(path)
    assert chosen == pipeline(path, patch_selection="original")
    assert several == pipeline(path, num_views=4)
    assert several["spread"] > 0
    assert 0 < several["percentile"] < 100


def test_too_many_pixels_and_too_many_files_are_refused_unseen(pipeline, tmp_path):
    Image.new("RGB", (2000, 1500)).save(tmp_path / "large.png")
    paths = [str(tmp_path / "large.png"), *[photo_path("chelsea")] * 4]

    photos = score_photos(paths, pipeline, limits=LIMITS)

    problems = [photo.problem for photo in photos if photo.problem]
    assert problems == [
        "The photo has 3 megapixels, the limit is 2.",
        "Not scored: at most 4 photos at once.",
    ]


@pytest.mark.parametrize("vision", ["clip", "charm"])
def test_comments_reach_a_checkpoint_that_reads_them(vision):
    processor = mmlq_fixtures.tiny_processor(vision)
    options = {"image_processor": processor.image_processor, "processor": processor}
    reader = ImageAestheticsPipeline(model=mmlq_fixtures.tiny_model(vision), **options)
    path = photo_path("coffee")

    praised, silent = (
        score_photos([path], reader, selection="gradient", comments=said)[0] for said in (["lovely light"], [])
    )

    chosen = {"patch_selection": "gradient"} if vision == "charm" else {}
    assert praised.problem is None
    assert praised.result == reader({"image": path, "comments": ["lovely light"]}, **chosen)
    assert silent.result == reader(path, **chosen)
    assert praised.result["score"] != silent.result["score"]


def test_comments_on_a_checkpoint_that_reads_none_change_nothing(pipeline):
    path = photo_path("coffee")

    assert score_photos([path], pipeline, comments=["lovely light"]) == score_photos([path], pipeline)


@pytest.fixture(scope="module")
def contacts():
    """Hosts that anything in this process looked up or connected to."""
    pytest.importorskip("gradio", reason="needs the extra `charm-hf[demo]`")
    seen = set()
    connect, lookup = socket.socket.connect, socket.getaddrinfo
    patch = pytest.MonkeyPatch()

    def noting_connect(self, address):
        if isinstance(address, tuple):
            seen.add(str(address[0]))
        return connect(self, address)

    def noting_lookup(host, *args, **kwargs):
        seen.add(str(host))
        return lookup(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", noting_connect)
    patch.setattr(socket, "getaddrinfo", noting_lookup)
    yield seen
    patch.undo()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A checkpoint that reads comments, with a Charm encoder."""
    folder = tmp_path_factory.mktemp("demo") / "reader"
    mmlq_fixtures.tiny_model("charm").save_pretrained(folder)
    mmlq_fixtures.tiny_processor("charm").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def demo_url(contacts, checkpoint, reader, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page, url = launch_demo([checkpoint, reader], limits=LIMITS, device="cpu", block=False)
        yield url
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, demo_url):
    """A page of the demo, seconds to open; the test fails if it asks another host for anything or raises."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults = []
    page.on("pageerror", lambda error: faults.append(f"raised {error}"))
    page.on(
        "request",
        lambda request: request.url.startswith((demo_url, "data:", "blob:")) or faults.append(f"asked {request.url}"),
    )
    page.set_default_timeout(30_000)
    page.goto(demo_url)
    page.wait_for_selector("#files input[type=file]", state="attached")
    yield page
    page.close()
    assert faults == []


def upload(page, *paths):
    page.set_input_files("#files input[type=file]", [str(path) for path in paths])


def wait_for_table(page, text):
    page.wait_for_function("text => document.querySelector('#table')?.innerText.includes(text)", arg=text)


@pytest.mark.slow
def test_a_dropped_photo_is_scored_and_explained_and_another_selection_gives_another_score(page, pipeline):
    assert not page.locator("#gallery, #table, #picture").locator("visible=true").count()  # no empty results
    upload(page, photo_path("coffee"))
    own, original = (
        f"{pipeline(photo_path('coffee'), **options)['score']:.3f}"
        for options in ({}, {"patch_selection": "original"})
    )
    assert own != original
    wait_for_table(page, own)
    page.wait_for_function("document.querySelector('#picture img')?.naturalWidth > 1000")

    page.click("#selection input")
    page.get_by_role("option", name="original").click()

    wait_for_table(page, original)


@pytest.mark.slow
def test_several_photos_are_compared_each_can_be_looked_at_and_a_broken_one_says_why(page, tmp_path):
    (tmp_path / HOSTILE).write_text("not a photo")
    upload(page, photo_path("coffee"), photo_path("chelsea"), photo_path("astronaut"), tmp_path / HOSTILE)

    page.wait_for_function("document.querySelectorAll('#gallery img').length === 3")
    page.wait_for_selector("#picture img")
    first = page.get_attribute("#picture img", "src")
    page.locator("#gallery img").nth(2).click()
    page.wait_for_function("source => document.querySelector('#picture img')?.src !== source", arg=first)
    captions = [float(text.split()[0]) for text in page.locator("#gallery .caption-label").all_text_contents()]
    assert len(captions) == 3
    assert captions == sorted(captions, reverse=True)

    page.wait_for_selector("text=1 of 4 files could not be scored")
    wait_for_table(page, "The file is not an image that PIL can read.")
    assert page.evaluate("window.hacked") is None  # its name stays text
    assert page.locator("img[onerror]").count() == 0

    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_function(f"document.querySelector('#gallery').getBoundingClientRect().right <= {width}")
        photo, caption = (page.locator(f"#gallery {what}").first.bounding_box() for what in ("img", ".caption-label"))
        assert photo["y"] + photo["height"] <= caption["y"] + 1
        for selector in ("#gallery", "#table", "#table table", "#table td.problem:not(:empty)", "#picture"):
            box = page.locator(selector).bounding_box()
            assert box["x"] >= 0, selector
            assert box["x"] + box["width"] <= width, selector


@pytest.mark.slow
def test_the_picture_follows_the_theme_and_the_width_of_the_page_and_is_named_after_its_photo(browser, demo_url):
    found = {}
    for scheme, width in (("light", 1280), ("dark", 390)):
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.goto(demo_url)
        page.wait_for_selector("#files input[type=file]", state="attached")
        upload(page, photo_path("coffee"))
        page.wait_for_selector("#picture img")
        source = page.get_attribute("#picture img", "src")
        with urllib.request.urlopen(source, timeout=10) as answer:
            found[scheme] = Image.open(answer).convert("RGB")
        assert source.endswith("coffee-why.png")
        page.close()

    assert found["light"].getpixel((2, 2)) == (255, 255, 255)
    assert max(found["dark"].getpixel((2, 2))) < 30
    assert found["light"].width > found["light"].height
    assert found["dark"].width < found["dark"].height / 2


@pytest.mark.slow
def test_programs_ask_the_named_endpoints(demo_url, checkpoint, pipeline, tmp_path):
    (tmp_path / "broken.jpg").write_text("not a photo")
    server = httpx.Client(base_url=f"{demo_url}gradio_api/", timeout=30)

    def ask(endpoint, *inputs):
        event = server.post(f"call/{endpoint}", json={"data": inputs}).json()["event_id"]
        kind, data = server.get(f"call/{endpoint}/{event}").text.strip().splitlines()[-2:]
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def upload_file(path):
        (place,) = server.post("upload", files={"files": (Path(path).name, Path(path).read_bytes())}).json()
        return {"path": place, "meta": {"_type": "gradio.FileData"}}

    photos = [upload_file(path) for path in (photo_path("coffee"), tmp_path / "broken.jpg")]
    settings = [Path(checkpoint).name, "as in the checkpoint", 1]

    _, [[scored, broken]] = ask("score", photos, *settings, "")
    _, [picture] = ask("explain", photos[0], *settings)

    assert scored["photo"] == "coffee.png"
    assert scored["score"] == pytest.approx(pipeline(photo_path("coffee"))["score"])
    assert broken["problem"] == "The file is not an image that PIL can read."
    assert Image.open(io.BytesIO(server.get(f"file={picture['path']}").content)).width > 1000
    assert sorted(server.get("info").json()["named_endpoints"]) == ["/explain", "/score"]
    elsewhere = {"path": photo_path("coffee"), "meta": {"_type": "gradio.FileData"}}
    assert ask("explain", elsewhere, *settings)[0] == "error"
    kind, said = ask("explain", photos[1], *settings)
    assert (kind, said["error"]) == (
        "error",
        "The file is not an image that PIL can read.",
    )


@pytest.mark.slow
def test_an_upload_over_the_size_limit_is_refused_with_a_message(page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > LIMITS.max_megabytes * 1_000_000

    upload(page, tmp_path / "noise.png")

    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    assert page.locator("#gallery img").count() == 0


@pytest.mark.slow
def test_comments_are_asked_for_only_where_they_are_read(page, reader):
    assert not page.locator("#comments").is_visible()
    upload(page, photo_path("coffee"))
    page.wait_for_selector("#picture img")

    page.click("#checkpoint input")
    page.get_by_role("option", name="reader").click()
    page.locator("#comments textarea").fill("great light\nlovely tone")
    page.click("#score")

    said = {"image": photo_path("coffee"), "comments": ["great light", "lovely tone"]}
    wait_for_table(page, f"{load_pipeline(reader, device='cpu')(said)['score']:.3f}")


@pytest.mark.slow
def test_the_server_listens_to_this_machine_only_and_contacts_no_other(demo_url, contacts):
    with urllib.request.urlopen(demo_url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    port = int(demo_url.rstrip("/").rsplit(":", 1)[1])

    assert demo_url.startswith("http://127.0.0.1:")
    assert "connect-src 'self'" in policy
    with pytest.raises(OSError, match=r"refused|timed out|unreachable|assign"):
        # Another of this machine's own addresses, at which a server that listens everywhere would answer.
        socket.create_connection(("127.0.0.2", port), timeout=2)
    assert contacts <= {"127.0.0.1", "127.0.0.2", "localhost", "::1", "None"}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml"])
def test_no_other_file_of_the_machine_is_served(demo_url, path):
    with pytest.raises(urllib.error.HTTPError, match="403|404"):
        urllib.request.urlopen(f"{demo_url}gradio_api/file={path}", timeout=10)


@pytest.mark.slow
def test_uploads_are_deleted_when_the_server_stops(checkpoint, browser, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra `charm-hf[demo]`")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    server, url = launch_demo([checkpoint], limits=LIMITS, device="cpu", block=False)
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector("#files input[type=file]", state="attached")
    upload(page, photo_path("coffee"))
    page.wait_for_selector("#picture img", timeout=30_000)
    page.close()
    assert list(tmp_path.rglob("coffee.png"))
    assert list(tmp_path.rglob("coffee-why.png"))

    server.close(verbose=False)

    assert not list(tmp_path.rglob("*.png"))


def ask_server(url, path, method="GET", **headers):
    """Status of an answer, whatever it is."""
    return httpx.request(method, f"{url}{path}", headers=headers, timeout=10).status_code


@pytest.mark.slow
def test_a_page_of_another_site_cannot_use_the_server(demo_url):
    here = demo_url.split("//")[1].rstrip("/")
    port = here.rsplit(":", 1)[1]
    assert ask_server(demo_url, "") == 200
    assert ask_server(demo_url, "config", Host=f"localhost:{port}", Origin=f"http://localhost:{port}") == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "a@127.0.0.1", "[::1", ""):
        assert ask_server(demo_url, "config", Host=host) in (400, 403), host
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://127.0.0.1:1"):
        assert ask_server(demo_url, "gradio_api/upload", "POST", Origin=origin) == 403, origin
        assert ask_server(demo_url, "config", Origin=origin) == 403


@pytest.mark.slow
def test_a_url_in_the_place_of_an_upload_is_not_fetched(demo_url, checkpoint, contacts):
    server = httpx.Client(base_url=f"{demo_url}gradio_api/", timeout=30)
    file = {"path": "http://photos.example/x.png", "meta": {"_type": "gradio.FileData"}}
    for endpoint, inputs in (("explain", [file]), ("score", [[file]])):
        settings = [Path(checkpoint).name, "as in the checkpoint", 1, *([""] if endpoint == "score" else [])]
        event = server.post(f"call/{endpoint}", json={"data": [*inputs, *settings]}).json()["event_id"]
        assert "event: error" in server.get(f"call/{endpoint}/{event}").text
    assert "photos.example" not in contacts


@pytest.mark.slow
def test_the_server_holds_no_more_than_it_may(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra `charm-hf[demo]`")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    limits = DemoLimits(max_megabytes=1, max_total_megabytes=2)
    server, url = launch_demo([checkpoint], limits=limits, device="cpu", block=False)

    def upload_file(size, **options):
        files = {"files": ("photo.png", np.random.default_rng(size).bytes(size))}
        return httpx.post(f"{url}gradio_api/upload", files=files, timeout=10, **options).status_code

    assert [upload_file(900_000 + number) for number in range(4)] == [200, 200, 413, 413]
    assert ask_server(url, "gradio_api/upload", "POST", **{"transfer-encoding": "chunked"}) == 413
    server.close(verbose=False)


@pytest.mark.slow
def test_a_server_that_is_told_to_end_leaves_no_upload_behind(checkpoint, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `charm-hf[demo]`")
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "charm_hf_cli", "demo", "--model", checkpoint, "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = next(line for line in process.stderr if "runs at" in line).split()[4].rstrip(".")
        assert httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", b"x")}, timeout=10).status_code == 200
        assert list(tmp_path.rglob("a.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(tmp_path.glob("charm-hf-demo-*"))


def test_checkpoints_are_called_by_their_folder_unless_two_are_called_the_same():
    assert _name_checkpoints(["runs/ava", "runs/aadb/"]) == {"ava": "runs/ava", "aadb": "runs/aadb/"}
    assert _name_checkpoints(["a/best", "b/best"]) == {"a/best": "a/best", "b/best": "b/best"}


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)]
)
def test_only_loopback_addresses_pass_without_a_warning(host, expected):
    assert _is_this_machine(host) is expected


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)

    with pytest.raises(ImportError, match=r"pip install 'charm-hf\[demo\]'"):
        launch_demo(["somewhere"])
