"""Make docs/images/serving.jpg, the live page in a browser: ``python docs/serving_picture.py``.

Needs Chromium and its driver.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

import edgepose
from edgepose.samples import PERSON, PERSON_BOXES
from edgepose.serve.server import PoseServer, listen

TARGET = Path(__file__).resolve().parent / "images" / "serving.jpg"


def main() -> None:
    """Serve the packaged photo as the source, and photograph the page."""
    boxes = json.loads(PERSON_BOXES.read_text())
    with edgepose.Estimator() as estimator, tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for number in range(20):
            shutil.copy(PERSON, photos / f"{number}.jpg")
        app = edgepose.serve.create_app(estimator, source=photos, repeat=True, boxes=lambda _: boxes)
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        ready = threading.Event()
        server = PoseServer(app, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            ready.wait()
            photograph(f"http://127.0.0.1:{port}/")
        finally:
            server.end()
            thread.join()


def photograph(address: str) -> None:
    """Write the picture of the page at an address."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1180,980"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(address)
        WebDriverWait(browser, 20).until(lambda page: page.find_elements("css selector", "#joints tr"))
        time.sleep(2)  # until frames per second are known
        image = cv2.imdecode(np.frombuffer(browser.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR)
        cv2.imwrite(str(TARGET), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
