# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The page in Chromium, opened from disk. Skipped where there is no Chromium."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path

import pytest
from report_runs import CANDIDATES, write_search, write_training
from test_report_predictions import clips, dump

from pvnas_mmaction.report import page
from pvnas_mmaction.report.predictions import for_trainings
from pvnas_mmaction.report.workdir import read_work_dirs

pytest.importorskip("selenium", reason="needs selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs chromium and chromedriver on PATH", allow_module_level=True)

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

WIDTHS = (1280, 400)
# Elements of plots lie in nested shadow roots.
FIND_ALL = """
const found = [];
const walk = (node) => {
  for (const child of node.querySelectorAll("*")) {
    if (child.matches(arguments[1])) found.push(child);
    if (child.shadowRoot) walk(child.shadowRoot);
  }
};
walk(document.getElementById(arguments[0]) ?? document);
return found;
"""


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parent.parent / "tools/screenshot_report.py"
    spec = importlib.util.spec_from_file_location("screenshot_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
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
    groups = {
        "one": [search],
        "several": [search, broken, training],
        "broken": [broken],
        "empty": [base / "empty"],
    }
    paths = {}
    for name, folders in groups.items():
        runs = read_work_dirs(folders)
        paths[name] = base / f"{name}.html"
        text = page.render_report(runs, for_trainings(runs))
        paths[name].write_text(text, encoding="utf-8")
    return paths


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request, tool):
    """A browser of one width, and its width."""
    driver = tool.open_browser(request.param)
    yield driver, request.param
    driver.quit()


def open_page(tool, browser, path: Path):
    driver, width = browser
    driver.get_log("browser")
    tool.load_report(driver, path)
    return driver, width


def complaints(driver) -> list[str]:
    """What the console holds beyond information."""
    log = driver.get_log("browser")
    return [
        entry["message"] for entry in log if entry["level"] in ("WARNING", "SEVERE")
    ]


def find_all(driver, key: str, selector: str) -> list:
    return driver.execute_script(FIND_ALL, key, selector)


def wait_for(condition, seconds: float = 20):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def center(driver, key: str) -> None:
    driver.execute_script(
        "document.getElementById(arguments[0])"
        ".scrollIntoView({block: 'center', behavior: 'instant'})",
        key,
    )


def model_data(driver, key: str, column: str) -> list:
    """A column of the first data source of the plot at a place."""
    return driver.execute_script(
        """
        const place = document.getElementById(arguments[0]);
        const id = place.querySelector("[data-root-id]").dataset.rootId;
        for (const document of Bokeh.documents) {
          const model = document.get_model_by_id(id);
          if (model) return [...model.renderers[0].data_source.data[arguments[1]]];
        }
        """,
        key,
        column,
    )


@pytest.mark.parametrize("name", ["one", "several", "broken", "empty"])
def test_pages_load_without_complaint_and_draw_every_plot(tool, browser, reports, name):
    driver, width = open_page(tool, browser, reports[name])
    assert complaints(driver) == []
    places = driver.execute_script(
        "return [...document.querySelectorAll('[data-plot]')].map((e) => e.id)"
    )
    assert bool(places) == (name != "empty")
    for key in places:
        drawn = find_all(driver, key, "canvas, .noUi-base, select")
        assert drawn, key
        sizes = [element.size for element in drawn]
        assert max(s["width"] for s in sizes) > 100, (key, sizes)
        assert max(s["height"] for s in sizes) >= 4, (key, sizes)
    # Nothing sticks out: drawings that are too wide scroll in their own box.
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_plots_have_ink(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    for key in ("run-1-network-1", "run-1-diversity", "run-1-distances"):
        colors = driver.execute_script(
            FIND_ALL.replace("return found;", """
              const canvas = found.find((c) => c.width > 100);
              const data = canvas.getContext("2d").getImageData(
                0, 0, canvas.width, canvas.height).data;
              const colors = new Set();
              for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] == 255) colors.add(data.slice(i, i + 3).join());
              return [...colors];
            """),
            key,
            "canvas",
        )  # fmt: skip
        assert len(colors) > 3, key
        if key == "run-1-network-1":  # green of ts, blue of mb
            assert {"0,158,115", "0,114,178"} <= set(colors)


def test_boxes_do_not_overlap(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["several"])
    overlaps = driver.execute_script(
        """
        const boxes = [...document.querySelectorAll(
          "h1, h2, h3, nav, .tile, .card, .notice, .legend, p, footer")]
          .filter((e) => !e.parentElement.closest(".card, .notice"))
          .map((e) => [e, e.getBoundingClientRect()]);
        const bad = [];
        for (const [a, p] of boxes) for (const [b, q] of boxes) {
          if (a === b || a.contains(b) || b.contains(a)) continue;
          const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
          const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
          if (w > 1 && h > 1) bad.push(a.className + " / " + b.className);
        }
        return bad;
        """
    )
    assert overlaps == []


def test_pointing_at_a_block_tells_about_it(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    key = "run-1-network-1"
    center(driver, key)
    canvas = max(find_all(driver, key, "canvas"), key=lambda c: c.size["width"])
    # Slots are of one width: stem, four layers, last convolution. Layer 0 is ts.
    offset = round(canvas.size["width"] * (1.5 / 6 - 0.5))
    ActionChains(driver).move_to_element_with_offset(canvas, offset, 0).perform()
    texts = wait_for(
        lambda: [
            e.text for e in find_all(driver, "", ".bk-tooltip-row-value") if e.text
        ]
    )
    assert "layer 0: ts_t3_k3_e2_se" in " ".join(texts)
    assert any("8x8x16x16" in text for text in texts)


def test_pointing_at_a_curve_tells_its_values(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    key = "run-1-diversity"
    center(driver, key)
    canvas = max(find_all(driver, key, "canvas"), key=lambda c: c.size["width"])
    ActionChains(driver).move_to_element(canvas).perform()
    labels = wait_for(
        lambda: [
            e.text for e in find_all(driver, "", ".bk-tooltip-row-label") if e.text
        ]
    )
    assert {"step:", "cycle:", "D(p):", "planned D*:"} <= set(labels)


def test_the_slider_moves_through_the_search(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    work_dir = reports["one"].parent / "search"
    lines = (work_dir / "search/history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    center(driver, "run-1-p-step")
    (handle,) = find_all(driver, "run-1-p-step", ".noUi-handle")

    def shown() -> list[float]:
        return model_data(driver, "run-1-p-overview", "p")

    def expected(step: int) -> list[float]:
        return [x for row in history[step]["p"] for x in row]

    assert shown() == pytest.approx(expected(-1), abs=1e-6)
    handle.click()
    handle.send_keys(Keys.HOME)
    wait_for(lambda: shown() == pytest.approx(expected(0), abs=1e-6))
    for _ in range(7):
        handle.send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: shown() == pytest.approx(expected(7), abs=1e-6))
    (title,) = find_all(driver, "run-1-p-step", ".bk-slider-title")
    assert title.text.startswith("Step 70 (cycle 1)")
    assert complaints(driver) == []


def test_the_selection_shows_another_layer(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    key = "run-1-p-detail"
    assert set(model_data(driver, key, "candidate")) == set(CANDIDATES[0])
    center(driver, "run-1-p-layer")
    (select,) = find_all(driver, "run-1-p-layer", "select")
    select.click()
    select.send_keys("layer 2")
    select.send_keys(Keys.ENTER)
    wait_for(lambda: set(model_data(driver, key, "candidate")) == set(CANDIDATES[2]))
    p = model_data(driver, key, "p")
    assert len(p) == 24 * 2
    # The two candidates of a step add up to one.
    assert [p[i] + p[i + 1] for i in range(0, 48, 2)] == pytest.approx([1] * 24)
    assert complaints(driver) == []


def test_a_click_on_a_layer_selects_it(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    key = "run-1-p-overview"
    center(driver, key)
    canvas = max(find_all(driver, key, "canvas"), key=lambda c: c.size["width"])
    frame = driver.execute_script(
        """
        const place = document.getElementById(arguments[0]);
        const id = place.querySelector("[data-root-id]").dataset.rootId;
        for (const view of Object.values(Bokeh.index.roots ?? Bokeh.index))
          if (view.model.id === id) {
            const box = view.frame.bbox;
            return [box.left, box.top, box.width, box.height];
          }
        """,
        key,
    )
    left, top, width, height = frame
    # Layer 3, the candidate that every layer of the second stage offers: mb_t5.
    names = sorted({name for row in CANDIDATES for name in row})
    assert len(names) == 6
    x = left + width * 3.5 / 4 - canvas.size["width"] / 2
    y = top + height * 1.5 / 6 - canvas.size["height"] / 2
    ActionChains(driver).move_to_element_with_offset(
        canvas, round(x), round(y)
    ).click().perform()
    wait_for(
        lambda: (
            set(model_data(driver, "run-1-p-detail", "candidate")) == set(CANDIDATES[3])
        )
    )


def test_a_genotype_is_copied(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["one"])
    button = driver.find_element("css selector", "[data-copy]")
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button
    )
    button.click()
    wait_for(lambda: button.text == "Copied")
    assert wait_for(lambda: button.text == "Copy")


def test_a_cut_off_search_says_what_is_missing(tool, browser, reports):
    driver, _ = open_page(tool, browser, reports["broken"])
    notice = driver.find_element("css selector", ".notice").text
    assert "history.jsonl: 1 line(s) can't be read" in notice
    assert "no cycle has ended yet" in notice


def test_the_picture_of_the_page_is_small(tool, browser, reports, tmp_path):
    driver, width = open_page(tool, browser, reports["one"])
    image = tool.capture(driver, width, 900)
    assert image.size == (width, 900)
    size = tool.save_small(image, tmp_path / "a.png", max_kib=300)
    assert size == (tmp_path / "a.png").stat().st_size < 300 * 1024
    with pytest.raises(ValueError, match=r"--max-kib: found \d+ KiB with 16 colors"):
        tool.save_small(image, tmp_path / "b.png", max_kib=1)
