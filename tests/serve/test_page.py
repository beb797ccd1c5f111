"""The page in a real browser: a picture dropped, the skeleton drawn, the sliders, the source."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose import Estimator, read_image
from edgepose.samples import PERSON
from edgepose.serve import Limits, create_app
from tests.fakes.serving import served

cv2 = pytest.importorskip("cv2")
pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")
webdriver = pytest.importorskip("selenium.webdriver")

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "artifacts" / "serve"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "chromium and chromedriver are not installed; make test installs Debian's as root"
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER) and os.environ.get("CI") != "true", reason=MISSING)

# A drop as the browser makes it: the file in a DataTransfer, the events on their way through the page.
DROP = """
const [text, name, kind] = arguments;
const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: kind }));
const place = document.getElementById("view");
for (const name of ["dragenter", "dragover", "drop"]) {
  place.dispatchEvent(new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
}
"""


@pytest.fixture(scope="module")
def estimator() -> Iterator[Estimator]:
    with Estimator(device="cpu", threads=1) as opened:
        yield opened


@pytest.fixture
def browser() -> Iterator[Any]:
    assert CHROMIUM, MISSING
    assert DRIVER, MISSING
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(condition: Callable[[], Any], what: str, patience: float = 20) -> Any:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


def state(browser: Any) -> str:
    return str(browser.find_element("id", "state").text)


def canvas(browser: Any) -> np.ndarray:
    """The canvas as BGR."""
    script = "return document.getElementById('view').toDataURL('image/png').split(',')[1]"
    data = np.frombuffer(base64.b64decode(browser.execute_script(script)), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def slide(browser: Any, name: str, value: float) -> None:
    script = """
    const slider = document.getElementById(arguments[0]);
    slider.value = arguments[1];
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    """
    browser.execute_script(script, name, str(value))


def keep(browser: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def drop(browser: Any, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    browser.execute_script(DROP, base64.b64encode(data).decode(), name, kind)


def differs(one: np.ndarray, other: np.ndarray, point: np.ndarray) -> bool:
    """Whether two drawings differ at a point."""
    x, y = np.round(point).astype(int)
    window = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    return bool(np.abs(one[window].astype(int) - other[window].astype(int)).max() > 40)


def test_a_picture_is_dropped_and_its_skeleton_drawn(browser: Any, estimator: Estimator) -> None:
    expected = estimator(PERSON)
    height, width = expected.image_size
    with served(create_app(estimator)) as address:
        browser.get(f"{address}/")
        wait_for(lambda: state(browser) == "pictures", "the page is ready")
        keep(browser, "empty")
        assert not browser.find_element("id", "pause").is_displayed()
        drop(browser, PERSON.read_bytes())
        wait_for(lambda: state(browser) == "picture", "the picture is estimated")
        drawn = canvas(browser)
        keep(browser, "picture")
        assert len(browser.find_elements("css selector", "#joints tr")) == len(expected.skeleton)

        slide(browser, "joint-score", 1)
        bare = canvas(browser)
        scale = np.array([bare.shape[1] / width, bare.shape[0] / height])
        photo = cv2.resize(read_image(PERSON), bare.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        assert np.abs(photo.astype(int) - bare).mean() < 6  # it is the picture, in its place
        seen = expected.scores[0] >= 0.2
        assert 4 <= seen.sum() < len(seen)
        for joint, point in enumerate((expected.keypoints[0] + 0.5) * scale):
            if seen[joint]:
                assert differs(drawn, bare, point), expected.skeleton.joints[joint]

        slide(browser, "joint-score", 0)
        everything = canvas(browser)
        for joint, point in enumerate((expected.keypoints[0] + 0.5) * scale):
            assert differs(everything, bare, point), expected.skeleton.joints[joint]
        slide(browser, "person-score", 0.99)
        assert not np.any(canvas(browser) != bare)
        assert browser.find_element("id", "persons").text == "0"
        assert complaints(browser) == []


def test_a_picture_is_chosen_and_errors_are_told(browser: Any, estimator: Estimator, tmp_path: Path) -> None:
    wrong = tmp_path / "notes.jpg"
    wrong.write_text("no picture")
    with served(create_app(estimator)) as address:
        browser.get(f"{address}/")
        wait_for(lambda: state(browser) == "pictures", "the page is ready")
        browser.find_element("id", "file").send_keys(str(wrong))
        wait_for(lambda: state(browser) == "failed", "the file is refused")
        assert "found no JPEG, PNG or WebP" in browser.find_element("id", "error").text
        browser.find_element("id", "file").send_keys(str(PERSON))
        wait_for(lambda: state(browser) == "picture", "the picture is estimated")
        assert not browser.find_element("id", "error").is_displayed()
        browser.set_window_size(400, 500)  # too low for the picture and what stands below it
        browser.find_element("id", "file").send_keys(str(wrong))
        wait_for(lambda: state(browser) == "failed", "the file is refused")
        script = "return document.getElementById('error').getBoundingClientRect().bottom - innerHeight"
        assert browser.execute_script(script) < 1
        browser.find_element("id", "file").send_keys(str(PERSON))
        wait_for(lambda: state(browser) == "picture", "the picture is estimated")
        browser.find_element("css selector", "#json-place summary").click()
        wait_for(lambda: '"lsp14"' in browser.find_element("id", "json").text, "the JSON is shown")
        browser.set_window_size(400, 800)
        wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        keep(browser, "phone")
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        browser.set_window_size(1280, 900)
        keep(browser, "dark")


def test_a_picture_that_is_too_large_is_sent_smaller(browser: Any, estimator: Estimator) -> None:
    with served(create_app(estimator, limits=Limits(max_pixels=40_000))) as address:
        browser.get(f"{address}/")
        wait_for(lambda: state(browser) == "pictures", "the page is ready")
        drop(browser, PERSON.read_bytes())
        wait_for(lambda: state(browser) == "picture", "the picture is estimated")
        assert "200 x 200 pixels" in browser.find_element("id", "notice").text
        assert browser.find_element("id", "persons").text == "1"


def test_the_source_is_watched_paused_and_found_again(
    browser: Any, estimator: Estimator, tmp_path: Path
) -> None:
    photo = read_image(PERSON)
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.roll(photo, 12 * number, axis=1))
    with served(create_app(estimator, source=tmp_path, repeat=True)) as address:
        browser.get(f"{address}/")
        wait_for(lambda: state(browser) == "live", "frames come")
        wait_for(
            lambda: browser.find_element("id", "fps").text.replace(".", "").strip("0").isdecimal(),
            "frames are counted",
        )
        first = canvas(browser)
        wait_for(lambda: np.any(canvas(browser) != first), "the picture moves")
        keep(browser, "live")
        browser.find_element("id", "pause").click()
        assert state(browser) == "paused"
        still = canvas(browser)
        time.sleep(0.4)
        assert not np.any(canvas(browser) != still)
        browser.find_element("id", "pause").click()
        wait_for(lambda: state(browser) == "live" and np.any(canvas(browser) != still), "it goes on")
        drop(browser, PERSON.read_bytes())
        wait_for(lambda: state(browser) == "picture", "a picture takes the source's place")
        browser.find_element("id", "back").click()
        wait_for(lambda: state(browser) == "live", "the source is back")
        assert complaints(browser) == []
    wait_for(lambda: state(browser) == "offline", "the page notices that the server has gone")
    assert "reconnecting" in browser.find_element("id", "notice").text
    keep(browser, "lost")
    again = create_app(estimator, source=tmp_path, repeat=True)
    with served(again, int(address.rpartition(":")[2])):
        wait_for(lambda: state(browser) == "live", "the page finds the server again")
        assert not browser.find_element("id", "notice").is_displayed()


def test_a_token_in_the_address_opens_the_page_once(browser: Any, estimator: Estimator) -> None:
    token = "0123456789abcdef"
    with served(create_app(estimator, token=token)) as address:
        browser.get(f"{address}/")
        browser.find_element("id", "token").send_keys("not the token")
        browser.find_element("css selector", "button").click()
        wait_for(lambda: "not the token" in browser.find_element("id", "error").text, "it is refused")
        keep(browser, "entrance")
        browser.find_element("id", "token").clear()
        browser.find_element("id", "token").send_keys(token)
        browser.find_element("css selector", "button").click()
        wait_for(lambda: browser.find_elements("id", "view") and state(browser) == "pictures", "it opens")
        browser.delete_all_cookies()
        browser.get(f"{address}/?token={token}")
        wait_for(lambda: state(browser) == "pictures", "the page is ready")
        assert token not in browser.current_url
        assert token not in str(browser.get_cookies())
        browser.delete_all_cookies()  # as if the server had another token by now
        drop(browser, PERSON.read_bytes())
        wait_for(lambda: browser.find_elements("id", "token"), "the page asks for the token again")
        browser.get(f"{address}/?token={token}")
        browser.get(f"{address}/docs")
        wait_for(lambda: "POST /v1/predict" in browser.page_source, "the API is described")
        keep(browser, "docs")
