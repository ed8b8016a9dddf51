"""The page in Chromium, opened from disk. Skipped where there is no Chromium."""

import json
import shutil
import time
from pathlib import Path

import pytest
from report_runs import write_search, write_training
from test_report_predictions import clips, dump

from pvnas_mmaction.report.data import read_work_dirs
from pvnas_mmaction.report.page import Report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs chromium and chromedriver on PATH", allow_module_level=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """One search, several runs, and a search that was cut off."""
    base = tmp_path_factory.mktemp("browser")
    search = write_search(base / "search")
    training = write_training(base / "training")
    dump(training / "p.pkl", clips())
    broken = write_search(base / "broken", finished=False)
    history = broken / "search/history.jsonl"
    history.write_text(history.read_text()[:-40])
    (broken / "search/archive.json").unlink()
    (base / "empty").mkdir()
    groups = dict(one=[search], several=[search, broken, training],
                  empty=[base / "empty"])  # fmt: skip
    paths = {}
    for name, folders in groups.items():
        paths[name] = base / f"{name}.html"
        paths[name].write_text(Report(read_work_dirs(folders)).render())
    return paths


@pytest.fixture(scope="module", params=[1280, 400])
def browser(request):
    """A headless Chromium of one width, and its width."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for name in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    # A headless window has a least width; a phone's needs emulation.
    size = dict(width=request.param, height=900, deviceScaleFactor=1)
    size["mobile"] = request.param < 600
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.set_script_timeout(90)
    yield driver, request.param
    driver.quit()


def load(driver, path: Path) -> None:
    """Open a page and wait until every plot has been drawn."""
    driver.get_log("browser")
    driver.get(path.resolve().as_uri())
    driver.execute_async_script(
        "(window.drawn ?? Promise.resolve()).then(arguments[0])"
    )


def complaints(driver) -> list[str]:
    """What the console holds beyond information."""
    log = driver.get_log("browser")
    return [e["message"] for e in log if e["level"] in ("WARNING", "SEVERE")]


def wait_for(condition, seconds: float = 20):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_pages_load_without_complaint_and_draw_every_plot_apart(browser, pages):
    driver, width = browser
    for name, path in pages.items():
        load(driver, path)
        assert complaints(driver) == []
        plots = driver.find_elements("css selector", ".plot")
        assert bool(plots) == (name != "empty")
        for plot in plots:
            size = plot.find_element("css selector", "svg").size
            assert size["width"] > 200 and size["height"] > 100, plot.get_attribute(
                "id"
            )
            assert plot.find_elements("css selector", ".role-mark path")
        # Nothing sticks out: drawings that are too wide scroll in their own box.
        found = driver.execute_script("return document.documentElement.scrollWidth")
        assert found <= width
        overlaps = driver.execute_script(
            """
            const boxes = [...document.querySelectorAll(
            "h1, h2, h3, nav, .tile, .card, .notice, .legend, p, footer, .plot > svg")]
              .map((e) => [e, e.getBoundingClientRect()]);
            const bad = [];
            for (const [a, p] of boxes) for (const [b, q] of boxes) {
              if (a === b || a.contains(b) || b.contains(a)) continue;
              if (a.closest(".scroll") || b.closest(".scroll")) continue;
              const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
              const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
              if (w > 1 && h > 1) bad.push(a.className + " / " + b.className);
            }
            return bad;
            """
        )
        assert overlaps == []
        texts = [e.text for e in driver.find_elements("css selector", ".notice")]
        torn = any("history.jsonl: 1 line(s) can't be read" in text for text in texts)
        assert torn == (name == "several")


def test_the_slider_moves_through_the_search(browser, pages):
    driver, _ = browser
    load(driver, pages["one"])
    history = pages["one"].parent / "search/search/history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]

    def shows(step: int) -> bool:
        """Whether the marks of the plot's first group hold p of a step."""
        found = driver.execute_script(
            "return [...document.querySelector('#run-1-p-overview .mark-rect"
            ".role-mark').children].map((e) => e.__data__.datum.p)"
        )
        expected = [x for row in records[step]["p"] for x in row]
        return found == pytest.approx(expected, abs=5e-4)

    assert shows(-1)
    slider = driver.find_element("css selector", "#run-1-p-step")
    slider.send_keys(webdriver.Keys.HOME)
    wait_for(lambda: shows(0))
    for _ in range(7):
        slider.send_keys(webdriver.Keys.ARROW_RIGHT)
    wait_for(lambda: shows(7))
    title = driver.find_element("css selector", "output").text
    assert title == "Step 70 (cycle 1)"
    assert complaints(driver) == []
