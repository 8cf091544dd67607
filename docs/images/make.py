"""Pictures of a report, light and dark, for the README: ``python docs/images/make.py REPORT.html``.

Takes the report of a finished run, as ``untaint run`` writes it, and photographs its beginning with headless Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HERE = Path(__file__).parent


def photograph(browser: str, page: Path, target: Path, *, dark: bool, width: int, height: int) -> None:
    """Writes a PNG of a page.

    Args:
        browser: The browser's program.
        page: The HTML file.
        target: The PNG.
        dark: Whether the page is asked for its dark colours.
        width: Of the window, in CSS pixels.
        height: Of the window; what is below is left out.
    """
    # A profile of its own: a running browser would take the order over and end at once.
    with tempfile.TemporaryDirectory(prefix="untaint-browser-") as profile:
        scheme = "--blink-settings=preferredColorScheme=0" if dark else "--blink-settings=preferredColorScheme=1"
        subprocess.run(  # noqa: S603 - a browser and a file that the caller named
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                scheme,
                f"--screenshot={target}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )


def main() -> int:
    """Reads the command line and takes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="the report.html of a finished run")
    parser.add_argument("--into", type=Path, default=HERE, help="folder of the pictures [default: beside this script]")
    parser.add_argument("--height", type=int, default=1500, help="CSS pixels from the top [default: 1500]")
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    for scheme in ("light", "dark"):
        target = given.into / f"report-{scheme}.png"
        photograph(browser, given.report, target, dark=scheme == "dark", width=1120, height=given.height)
        print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
