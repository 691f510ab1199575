"""Opens a report.html in headless Chromium, checks it, takes its picture.

Not part of `make test`, as it needs a browser:

    python tests/helpers/open_report.py report/report.html page.png
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# What the page looks like to the browser, left in a place that is printed.
_PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  const seen = {
    images: images.length,
    shown: images.filter((i) => i.complete && i.naturalWidth > 100).length,
    named: images.filter((i) => i.alt.length > 0).length,
    tables: document.querySelectorAll("tbody tr").length,
    fetched: performance.getEntriesByType("resource").map((r) => r.name)
      .filter((name) => !name.startsWith("data:")),
    overflow: document.documentElement.scrollWidth - innerWidth,
    height: document.documentElement.scrollHeight,
  };
  document.documentElement.dataset.seen = encodeURIComponent(
    JSON.stringify(seen));
});
</script>
"""


def browse(browser, page, width, height, *flags):
    """Runs the browser on a file; returns what it prints."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            *flags,
            page.resolve().as_uri(),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=120
        )
    return done.stdout


def look(browser, page, width):
    """What the browser sees of a page in a window of so many pixels."""
    from urllib.parse import unquote

    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "page.html"
        copy.write_text(page.read_text() + _PROBE)
        shown = browse(browser, copy, width, 900, "--dump-dom")
    return json.loads(unquote(re.search(r'data-seen="([^"]*)"', shown)[1]))


def check(seen):
    assert seen["images"] == seen["shown"] == seen["named"] > 0, seen
    assert seen["tables"] > 0 and not seen["fetched"], seen
    assert seen["overflow"] <= 0, seen


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    parser.add_argument("--browser", default=None)
    given = parser.parse_args()
    found = filter(None, [given.browser, *map(shutil.which, _NAMES)])
    browser = next(found, None)
    if browser is None:
        raise SystemExit(f"No browser: none of {', '.join(_NAMES)} is found")
    for width in (500, 1200):
        seen = look(browser, given.page, width)
        check(seen)
        print(f"{width} pixels wide: {seen}")
    picture = f"--screenshot={given.picture.resolve()}"
    browse(browser, given.page, 1200, seen["height"], picture)


if __name__ == "__main__":
    main()
