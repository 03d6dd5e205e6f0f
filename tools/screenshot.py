"""Screenshots of a report for README and docs, light and dark, as a reader's browser shows it.

    python tools/screenshot.py runs/demo-intent/demo/report.html docs/images/report-intent

writes docs/images/report-intent-light.png and -dark.png: the top of the page, 1,280 pixels wide. Needs playwright (the
extra `dev`) and Chromium or Chrome, the one that MLXTUNE_CHROMIUM names or one on the PATH.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

BROWSERS = ("chromium", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 960


def main() -> None:
    """Take both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path, help="Path of the pictures without -light.png and -dark.png.")
    parser.add_argument(
        "--section", default="", help="Begin at this section of the page: fields, losses, predictions ..."
    )
    parser.add_argument("--height", type=int, default=HEIGHT)
    given = parser.parse_args()
    for file in take(given.report, given.out, given.section, given.height):
        print(file)


def take(report: Path, out: Path, section: str = "", height: int = HEIGHT) -> list[Path]:
    """Write both pictures; returns their paths."""
    from playwright.sync_api import sync_playwright

    browser_path = os.environ.get("MLXTUNE_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        sys.exit("screenshot: no browser; install Chromium, or name one in MLXTUNE_CHROMIUM")
    out.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=scheme)
            page.goto(f"{report.resolve().as_uri()}{'#' if section else ''}{section}")
            page.wait_for_timeout(1000)  # the predictions are unpacked
            written.append(out.with_name(f"{out.name}-{scheme}.png"))
            page.screenshot(path=written[-1])
        browser.close()
    return written


if __name__ == "__main__":
    main()
