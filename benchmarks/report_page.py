"""Size of a report of many photos, and how fast a browser opens, scrolls and filters it.

    python -m benchmarks.report_page FOLDER --photos 10000

The photos of the folder are repeated, with made-up scores. The browser is the system's Chromium, driven by Playwright;
without them only the size is printed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from charm_hf.look.report import write_report
from charm_hf.scoring import list_items


SCROLL = """async () => {
  const scroller = document.getElementById("scroller");
  const times = [];
  for (let top = 0; top < scroller.scrollHeight; top += scroller.scrollHeight / 200) {
    const start = performance.now();
    scroller.scrollTop = top;
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b);
}"""
SEARCH = """() => {
  const start = performance.now();
  const search = document.getElementById("search");
  search.value = "9";
  search.dispatchEvent(new Event("input"));
  return performance.now() - start;
}"""


def measure(page: Path) -> None:
    """Print what the browser takes."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("no Playwright: the browser was not measured")
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#app:not([hidden])")
        print(f"open    {time.perf_counter() - start:.2f} s")
        frames = tab.evaluate(SCROLL)
        print(f"scroll  {frames[len(frames) // 2]:.0f} ms a step (median), {frames[-1]:.0f} ms (worst)")
        print(f"search  {tab.evaluate(SEARCH):.0f} ms")
        browser.close()


def main() -> None:
    """Write a report, measure it, and throw it away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--photos", type=int, default=10_000)
    arguments = parser.parse_args()
    photos = islice(cycle(list_items([arguments.folder])), arguments.photos)
    rows = [{"path": photo.path, "score": (7919 * n % 10_000) / 1000} for n, photo in enumerate(photos)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = write_report(rows, Path(folder) / "report.html")
        print(f"write   {time.perf_counter() - start:.1f} s for {summary.num_photos:,} photos")
        print(f"size    {summary.num_bytes / 1e6:.1f} MB")
        measure(summary.path.absolute())


if __name__ == "__main__":
    main()
