"""The system's browser, driven by playwright."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def start(playwright: Playwright) -> Browser:
    """Starts it without a window; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
