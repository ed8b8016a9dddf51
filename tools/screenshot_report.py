#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Take a picture of a report in headless Chromium, e.g. for the README.

Needs selenium, chromium and chromedriver (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import sys
from pathlib import Path

from PIL import Image


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="file that tools/report.py wrote")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/images/report.png"),
        help="default: docs/images/report.png",
    )
    parser.add_argument(
        "--width", type=int, default=1280, help="of the window, in pixels; default 1280"
    )
    parser.add_argument(
        "--height",
        type=int,
        default=1560,
        help="of the picture, in pixels; 0 for the whole page; default 1560",
    )
    parser.add_argument(
        "--start", type=int, default=0, help="first line of pixels; default 0"
    )
    parser.add_argument(
        "--max-kib",
        type=int,
        default=300,
        help="colors are reduced to stay below this size; default 300",
    )
    return parser.parse_args()


def open_browser(width: int, height: int = 900):
    """A headless Chromium whose pages are so many pixels wide.

    Raises:
        FileNotFoundError: Chromium or its driver is not installed.
        ImportError: selenium is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        raise FileNotFoundError(
            "found no chromium or no chromedriver, expected both on PATH (Debian: "
            "apt-get install chromium chromium-driver)"
        )
    options = Options()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    # A headless window has a least width; a phone's needs emulation.
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600),
    )
    return driver


def load_report(driver, path: Path) -> None:
    """Open a report from disk and wait until every plot has been drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.resolve().as_uri())
    WebDriverWait(driver, 90).until(
        lambda d: d.execute_script(
            """
            const places = [...document.querySelectorAll("[data-plot]")];
            return places.every(
                (place) => place.querySelector("[data-root-id] > *")?.shadowRoot
              ) && (places.length === 0
                || Bokeh.documents.every((document) => document.is_idle));
            """
        )
    )


def capture(driver, width: int, height: int, start: int = 0) -> Image.Image:
    """A picture of the page from line ``start`` on; height 0: down to its end."""
    total = driver.execute_script("return document.documentElement.scrollHeight")
    height = height or total - start
    data = driver.execute_cdp_cmd(
        "Page.captureScreenshot",
        dict(
            format="png",
            captureBeyondViewport=True,
            clip=dict(x=0, y=start, width=width, height=height, scale=1),
        ),
    )["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def save_small(image: Image.Image, path: Path, max_kib: int) -> int:
    """Write a PNG below a size, with fewer colors if need be; gives its bytes.

    Raises:
        ValueError: Even 16 colors take more.
    """
    for colors in (0, 256, 128, 64, 32, 16):
        stream = io.BytesIO()
        reduced = image.quantize(colors, dither=Image.Dither.NONE) if colors else image
        reduced.save(stream, "PNG", optimize=True)
        if stream.tell() < max_kib * 1024:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stream.getvalue())
            return stream.tell()
    raise ValueError(
        f"--max-kib: found {stream.tell() / 1024:.0f} KiB with 16 colors, expected "
        f"below {max_kib}; ask for a smaller --height"
    )


def take_picture(path: Path, width: int, height: int, start: int) -> Image.Image:
    """A picture of a report.

    Raises:
        FileNotFoundError: There is no such report, or no browser.
        ImportError: selenium is not installed.
        ValueError: The browser does not start, or the page is not drawn in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such report")
    try:
        from selenium.common.exceptions import TimeoutException, WebDriverException
    except ImportError as error:
        raise ImportError(
            "found no selenium, expected it (pip install selenium)"
        ) from error
    driver = None
    try:
        driver = open_browser(width)
        load_report(driver, path)
        return capture(driver, width, height, start)
    except TimeoutException as error:
        raise ValueError(
            f"{path}: found plots that were not drawn in time, expected a whole page "
            "of tools/report.py"
        ) from error
    except WebDriverException as error:
        reason = (error.msg or "no reason given").strip().splitlines()[0]
        where = "does not start" if driver is None else f"fails on {path}"
        raise ValueError(f"Chromium {where}: {reason}") from error
    finally:
        if driver is not None:
            driver.quit()


def main() -> None:
    args = parse_args()
    image = take_picture(args.report, args.width, args.height, args.start)
    size = save_small(image, args.out, args.max_kib)
    print(f"{args.out}: {image.width}x{image.height}, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
