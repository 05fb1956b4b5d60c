"""A real headless Chromium for the tests of pages; they are skipped where there is none."""

import os
import shutil
from contextlib import contextmanager

import pytest


def find_chromium():
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@contextmanager
def open_chromium():
    """Gives Playwright's browser, driving the Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    executable = find_chromium()
    if executable is None:
        pytest.skip("needs Chromium: `apt-get install chromium`, or name one in the variable CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable)
        try:
            yield browser
        finally:
            browser.close()
