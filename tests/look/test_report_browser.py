"""The report in a real browser, used as a person would."""

import csv
import io
import re

import pytest
from headless_chromium import open_chromium
from PIL import Image

from charm_hf.look.report import write_report


HOSTILE = "<img src=x onerror=window.hacked=1>.jpg"


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Opens a page at a desktop's size; the test fails if the page raises, logs an error or asks the network."""
    contexts, faults = [], []

    def open_page(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"raised {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"logged {message.text}"))
        page.on("request", lambda request: request.url.startswith("http") and faults.append(f"asked {request.url}"))
        page.set_default_timeout(10_000)
        page.goto(path.as_uri())
        page.wait_for_selector("#app:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def small_report(tmp_path_factory):
    """24 photos in two folders, scores 0 to 9.2, one with a hostile name; and two failures."""
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for number in range(24):
        name = f"{'red' if number % 2 else 'blue'}/{number:02d}.jpg" if number else HOSTILE
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (90, 60), (10 * number, 0, 240 - 10 * number)).save(path)
        row = {"path": name, "score": number * 0.4, "std": number / 24, "width": 90, "height": 60}
        rows.append({**row, "tokens": 24, "distribution": [0.25, 0.5, 0.25], "error": None})
    rows += [{"path": HOSTILE, "score": None, "error": HOSTILE}, {"path": "b.jpg", "score": None, "error": "empty"}]
    return write_report(rows, folder / "report.html", image_root=folder, title="Two folders").path


def names(page):
    return page.locator(".card .name").all_text_contents()


def wait_for_focus_on(page, name):
    """A dialog's `close` event, which moves the focus on, comes after the key that closed it."""
    from playwright.sync_api import expect

    expect(page.locator(".card:focus .name")).to_have_text(name)


def test_it_opens_with_the_best_photo_first_and_real_thumbnails(open_page, small_report):
    page = open_page(small_report)

    assert page.title() == page.locator("h1").text_content() == "Two folders"
    assert page.locator("#status").text_content() == "24 photos · 2 failed"
    assert names(page)[:3] == ["23.jpg", "22.jpg", "21.jpg"]
    assert page.locator(".card .score").first.text_content() == "9.20"
    page.wait_for_function("document.querySelector('.card img').complete")
    assert page.evaluate("document.querySelector('.card img').naturalWidth") == 90
    assert page.locator("#best .score").all_text_contents()[0] == "9.20"
    assert page.locator("#worst .score").all_text_contents()[0] == "0.00"
    assert page.locator("#histogram .bar-all").count() == 10


def test_sorting_puts_the_named_order_on_the_sheet(open_page, small_report):
    page = open_page(small_report)

    page.select_option("#sort", "worst")
    assert names(page)[:2] == [HOSTILE, "01.jpg"]
    page.select_option("#sort", "name")
    assert names(page)[:2] == [HOSTILE, "02.jpg"]
    page.select_option("#sort", "spread")
    assert names(page)[0] == "23.jpg"


def test_search_folder_and_scores_narrow_the_sheet_together(open_page, small_report):
    page = open_page(small_report)

    page.select_option("#folder", "red")
    assert page.locator("#status").text_content() == "12 of 24 photos · 2 failed"
    page.fill("#low", "4")
    page.press("#low", "Enter")
    assert names(page) == ["23.jpg", "21.jpg", "19.jpg", "17.jpg", "15.jpg", "13.jpg", "11.jpg"]
    page.fill("#search", "RED 1")
    assert names(page) == ["21.jpg", "19.jpg", "17.jpg", "15.jpg", "13.jpg", "11.jpg"]
    page.fill("#search", "nothing like it")
    assert page.locator("#empty").is_visible()
    page.click("#empty-reset")
    assert page.locator("#status").text_content() == "24 photos · 2 failed"


def test_the_score_sliders_work_by_keyboard_and_never_lose_the_extremes(open_page, small_report):
    page = open_page(small_report)

    page.focus("#low-slider")
    page.keyboard.press("End")
    assert names(page) == ["23.jpg"]
    page.keyboard.press("Home")
    assert page.locator("#status").text_content() == "24 photos · 2 failed"
    page.focus("#high-slider")
    page.keyboard.press("Home")
    assert names(page) == [HOSTILE]
    assert page.get_attribute("#high-slider", "aria-valuetext") == "0.00"


def test_a_bar_of_the_histogram_shows_its_photos(open_page, small_report):
    page = open_page(small_report)

    page.locator("#histogram .bar-target").last.click()  # 8.28 to 9.2

    assert names(page) == ["23.jpg", "22.jpg", "21.jpg"]


def test_the_keyboard_alone_moves_chooses_looks_and_searches(open_page, small_report):
    page = open_page(small_report)
    columns = int(page.get_attribute("#grid", "aria-colcount"))

    page.keyboard.press("ArrowDown")
    wait_for_focus_on(page, "23.jpg")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert page.get_attribute(".card:focus", "aria-selected") == "true"
    page.keyboard.press("ArrowDown")
    wait_for_focus_on(page, f"{22 - columns}.jpg")
    page.keyboard.press("Shift+Space")
    assert page.locator("#chosen-count").text_content() == str(columns + 1)
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-name").text_content().endswith(f"{21 - columns}.jpg")
    page.keyboard.press("Escape")
    wait_for_focus_on(page, f"{21 - columns}.jpg")
    page.keyboard.press("End")
    wait_for_focus_on(page, HOSTILE)
    page.keyboard.press("/")
    page.keyboard.type("red/2")
    assert names(page) == ["23.jpg", "21.jpg"]
    page.keyboard.press("Escape")
    assert page.locator("#status").text_content() == "24 photos · 2 failed"


def test_the_large_view_shows_the_original_the_numbers_and_the_distribution(open_page, small_report):
    page = open_page(small_report)

    page.locator(".card").first.click()
    page.wait_for_function("document.querySelector('#viewer-image').src.startsWith('file:')")

    assert page.locator("#viewer-score").text_content() == "9.20"
    assert page.locator("#viewer-facts").text_content() == "Rank1 of 24Size90 × 60Tokens24"
    assert page.locator("#viewer-distribution rect").count() == 3
    assert page.get_attribute("#viewer-original", "href") == "./red/23.jpg"


def test_chosen_photos_are_exported_as_text_and_csv_and_survive_a_reload(open_page, small_report):
    page = open_page(small_report)
    assert page.locator("#export-text").is_disabled()
    page.fill("#choose-number", "2")
    page.click("#choose-best")
    page.fill("#choose-number", "1")
    page.click("#choose-worst")
    page.reload()
    page.wait_for_selector("#app:not([hidden])")

    with page.expect_download() as text:
        page.click("#export-text")
    with page.expect_download() as table:
        page.click("#export-csv")

    assert text.value.suggested_filename == "chosen.txt"
    assert text.value.path().read_text(encoding="utf-8") == f"red/23.jpg\nblue/22.jpg\n{HOSTILE}\n"
    rows = list(csv.DictReader(io.StringIO(table.value.path().read_text(encoding="utf-8"))))
    assert [(row["path"], float(row["score"]), row["distribution"]) for row in rows] == [
        ("red/23.jpg", pytest.approx(9.2), "[0.25,0.5,0.25]"),
        ("blue/22.jpg", pytest.approx(8.8), "[0.25,0.5,0.25]"),
        (HOSTILE, 0.0, "[0.25,0.5,0.25]"),
    ]
    page.check("#only-chosen")
    assert names(page) == ["23.jpg", "22.jpg", HOSTILE]
    page.click("#choose-none")
    assert page.locator("#empty").is_visible()


def test_no_exported_cell_is_a_formula(open_page, tmp_path):
    rows = [{"path": "=1+1.jpg", "score": 2.0, "note": "@SUM(A1)", "change": "-0.5"}]
    page = open_page(write_report(rows, tmp_path / "report.html", thumbnails="none").path)
    page.fill("#choose-number", "1")
    page.click("#choose-best")
    with page.expect_download() as table:
        page.click("#export-csv")
    (row,) = csv.DictReader(io.StringIO(table.value.path().read_text(encoding="utf-8")))
    assert (row["path"], row["note"], row["change"]) == ("./=1+1.jpg", "'@SUM(A1)", "-0.5")


def test_a_hostile_file_name_is_shown_as_text_everywhere(open_page, small_report):
    page = open_page(small_report)

    page.select_option("#sort", "worst")
    page.locator(".card").first.click()
    assert page.locator("#viewer-name").text_content() == HOSTILE
    page.keyboard.press("Escape")
    page.locator("#errors summary").click()
    assert page.locator("#error-rows td").all_text_contents()[:2] == [HOSTILE, HOSTILE]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[onerror]").count() == 0


def test_the_policy_stops_a_script_that_got_in_all_the_same(browser, small_report, tmp_path):
    content = small_report.read_text(encoding="utf-8")
    forced = tmp_path / "forced.html"
    forced.write_text(
        content.replace("</body>", "<script>window.hacked=1</script><img src=x onerror=hacked=1></body>")
    )
    page = browser.new_page()

    page.goto(forced.as_uri())
    page.wait_for_selector("#app:not([hidden])")

    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(open_page, small_report, scheme):
    page = open_page(small_report, color_scheme=scheme)

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    colours = {"light": "rgb(244, 244, 242)", "dark": "rgb(20, 20, 20)"}
    other = {"light": "dark", "dark": "light"}[scheme]
    assert ground() == colours[scheme]
    page.click("#theme")
    assert ground() == colours[other]
    assert page.get_attribute("#theme", "aria-pressed") == str(other == "dark").lower()
    page.reload()
    page.wait_for_selector("#app:not([hidden])")
    assert ground() == colours[other]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_and_every_control_a_name(open_page, small_report, scheme):
    page = open_page(small_report, color_scheme=scheme)

    ratios = page.evaluate(CONTRAST)
    assert min(ratios.values()) >= 4.5, ratios
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, a')].filter(node =>
            !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML)"""
    )
    assert unnamed == []


CONTRAST = """() => {
  const luminance = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(node.parentElement) : colour;
  };
  const pairs = {};
  for (const selector of [".status", "h2", ".name", ".spread", ".score", ".count", "#errors summary", ".facts dt",
                          "#reset", "#skip", ".inline"]) {
    const node = document.querySelector(selector);
    const [a, b] = [luminance(getComputedStyle(node).color), luminance(ground(node))];
    pairs[selector] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return pairs;
}"""


def test_linked_photos_show_from_their_files(open_page, tmp_path):
    photo = tmp_path / "50% #1.png"
    Image.new("RGB", (120, 80), "green").save(photo)
    page = open_page(write_report([{"path": str(photo), "score": 1.0}], tmp_path / "r.html", thumbnails="link").path)

    page.wait_for_function("document.querySelector('.card img')?.naturalWidth === 120")


def test_a_narrow_window_folds_the_filters_away(open_page, small_report):
    page = open_page(small_report, viewport={"width": 400, "height": 800})

    assert not page.locator("#folder").is_visible()
    page.click("#side > summary")
    assert page.locator("#folder").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert not page.locator(".card").first.is_visible()  # the filters have the window, and none of them is cut
    page.locator("#size").scroll_into_view_if_needed()
    box = page.locator("#size").bounding_box()
    assert 0 <= box["y"] <= 800 - box["height"]
    page.click("#side-close")
    assert page.locator(".card").first.is_visible()
    assert not page.locator("#folder").is_visible()


def test_failures_are_reached_by_a_link(open_page, small_report):
    page = open_page(small_report)

    page.click("#status a")

    assert page.locator("#error-rows td").first.is_visible()
    assert page.evaluate("document.activeElement.id") == "errors-summary"


def test_bars_and_spread_have_a_legend(open_page, small_report, tmp_path):
    page = open_page(small_report)
    assert page.locator("#histogram + .legend").text_content() == "Photos: shown filtered out"
    assert page.locator("#spread-legend").is_visible()
    page.locator(".card").first.click()
    assert page.locator("#viewer-ratings .legend").is_visible()

    plain = open_page(write_report([{"path": "a.jpg", "score": 1.0}], tmp_path / "r.html").path)
    assert not plain.locator("#spread-legend").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_shown_photo_is_printed_on_pages_that_are_not_blank(open_page, small_report, scheme):
    page = open_page(small_report, color_scheme=scheme)
    page.select_option("#folder", "red")

    pages = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    assert len(pages) == 1
    page.emulate_media(media="print")
    page.evaluate("fillPrint()")

    assert not page.locator("#app").is_visible()
    assert page.locator("#print figure span").all_text_contents()[:2] == ["23.jpg", "21.jpg"]
    assert page.locator("#print figure").count() == 12
    assert page.locator("#print li").count() == 2
    assert page.evaluate("getComputedStyle(document.querySelector('#print')).color") == "rgb(29, 29, 27)"
    assert page.evaluate("[...document.querySelectorAll('#print img')].every((image) => image.naturalWidth > 0)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#print figure").count() == 0


def test_ten_thousand_photos_scroll_with_a_few_hundred_elements(open_page, tmp_path):
    photos = []
    for number in range(20):
        photos.append(tmp_path / f"{number}.jpg")
        Image.new("RGB", (24, 16), (12 * number, 90, 200)).save(photos[-1])
    rows = [
        {"path": str(photos[number % 20]), "score": number / 1000, "std": None, "error": None}
        for number in range(10_000)
    ]
    page = open_page(write_report(rows, tmp_path / "report.html", link_originals=False).path)

    assert page.locator("#status").text_content() == "10,000 photos"
    assert page.locator(".card").count() < 150
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    page.wait_for_selector(".card:focus")
    assert page.get_attribute(".card:focus", "aria-label").endswith("rank 10000 of 10000")
    assert page.evaluate("document.querySelector('.card:focus img').naturalWidth") == 24
    assert page.locator(".card").count() < 150
    milliseconds = page.evaluate(
        """() => { const start = performance.now();
                   const sort = document.getElementById('sort');
                   sort.value = 'name'; sort.dispatchEvent(new Event('input'));
                   return performance.now() - start; }"""
    )
    assert milliseconds < 2000  # a redraw of all 10,000 cards takes many times as long


@pytest.fixture
def burst_report(tmp_path):
    """Two of one moment, one alone, as a table with series says."""
    rows = []
    for number, series in enumerate(("3", "3", "5")):
        Image.new("RGB", (60, 40), (80 * number, 90, 200)).save(tmp_path / f"{number}.png")
        rows.append({"path": str(tmp_path / f"{number}.png"), "score": 5.0 - number, "series": series})

    def picture(path):
        return Image.new("RGB", (300, 200), "orange")

    return write_report(rows, tmp_path / "r.html", explain=picture, explained=1).path


def test_of_a_series_the_best_stands_for_all_until_it_is_opened(open_page, burst_report):
    page = open_page(burst_report)
    assert names(page) == ["0.png", "2.png"]
    assert page.locator("#status").text_content() == "2 of 3 photos"
    page.click(".stack")
    assert names(page) == ["0.png", "1.png"]
    page.click("#one-series")
    assert names(page) == ["0.png", "2.png"]
    page.locator(".card").first.click()
    page.click("#viewer-series")
    assert not page.locator("#viewer").is_visible()
    assert names(page) == ["0.png", "1.png"]
    page.click("#reset")
    page.uncheck("#stacked")
    assert names(page) == ["0.png", "1.png", "2.png"]


def test_the_large_view_says_why_of_the_best_and_the_worst(open_page, burst_report, small_report):
    page = open_page(burst_report)
    page.uncheck("#stacked")
    page.locator(".card").first.click()
    page.click("#viewer-why")
    page.wait_for_function("document.querySelector('#viewer-image').naturalWidth === 300")
    page.click("#viewer-why")
    page.wait_for_function("document.querySelector('#viewer-image').naturalWidth === 60")
    page.keyboard.press("ArrowRight")
    assert not page.locator("#viewer-why").is_visible()
    page.wait_for_timeout(100)  # the button that had the focus is gone, and the keys still work
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-why").is_visible()
    phone = open_page(burst_report, viewport={"width": 390, "height": 800})
    phone.locator(".card").first.click()
    phone.click("#viewer-why")  # its words stay readable: it is moved about, and nothing else is
    phone.wait_for_function("document.querySelector('#viewer-image').getBoundingClientRect().width >= 700")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    plain = open_page(small_report)
    assert not plain.locator("#stacked-label").is_visible()
