"""The dashboard in a real browser: it moves, refuses strangers, and slow clients slow nobody.

    edgevit quickstart -o digits-demo
    python benchmarks/dashboard_page.py digits-demo/digits.edgevit

A source shows handwritten digits, the bundle classifies them, and headless Chromium opens the page
on a desk and on a phone, by day and by night. The sensors are a folder like an Orin Nano's, whose
numbers are made up: they show the page, not a machine. Writes `docs/images/dashboard*.png`
and a file in `results/`. With `--frames rooms/test/images --name dashboard-masks` another bundle is
shown on the images or videos of a folder, in one picture.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from chromium import Chromium
from PIL import Image
from saving import RESULTS, load_average, write_result

from edge_vit.bundle import Bundle
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sinks.addresses import make_sink
from edge_vit.camera.sinks.web.dashboard import DashboardSink
from edge_vit.camera.smoothing import ConfidenceFloor, Smoothing
from edge_vit.camera.sources.source import Capture, SourceMaker
from edge_vit.camera.values import SourceFormat
from edge_vit.data.images import open_image_source
from edge_vit.device import TelemetryReader
from edge_vit.runtime import open_session
from edge_vit.training.datasets import load_digits

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import device_trees  # noqa: E402

WIDTH, HEIGHT, RATE = 640, 480, 30.0
FRAMES_PER_DIGIT = 45
VIEWS = {
    "dashboard": (1440, 1420, False),
    "dashboard-dark": (1440, 1420, True),
    "dashboard-phone": (390, 1500, False),
    "dashboard-phone-dark": (390, 1500, True),
}
"""CSS pixels, and whether by night."""

_SCENE = """(() => { const canvas = document.createElement("canvas");
canvas.width = canvas.height = 8; const pen = canvas.getContext("2d");
pen.drawImage(document.getElementById("picture"), 0, 0, 8, 8);
return [...pen.getImageData(0, 0, 8, 8).data].map((value) => value >> 6).join(""); })()"""
_POWER = "document.getElementById('power').textContent"
_ADDRESSES = """[...new Set(performance.getEntriesByType("resource").map((one) =>
new URL(one.name).origin + "/"))]"""
NUM_SLOW, ROUNDS, SECONDS = 50, 4, 8.0


def digits() -> Iterator[Image.Image]:
    """Yield handwritten digits on a board, each for a while, wandering a little."""
    images = load_digits().test_images
    order = np.random.default_rng(5).permutation(len(images))
    for place in itertools.cycle(order):
        digit = Image.fromarray(images[place])
        big = digit.resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC)
        for phase in range(FRAMES_PER_DIGIT):
            turn = math.sin(phase / FRAMES_PER_DIGIT * math.tau)
            frame = Image.new("RGB", (WIDTH, HEIGHT), digit.getpixel((0, 0)))
            frame.paste(big, (round((WIDTH - HEIGHT) / 2 + 8 * turn), round(4 * turn)))
            yield frame


def pictures(folder: Path, count: int) -> Iterator[Image.Image]:
    """Yield the images below `folder`, each `count` times, and its videos, frame by frame."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".mp4"))
    for path in itertools.cycle(np.random.default_rng(1).permutation(np.array(paths)).tolist()):
        if path.suffix == ".mp4":
            frames = [item.pixels for item in open_image_source(str(path), has_truth=False)]
            every = [Image.fromarray(frame) for frame in frames]
        else:
            every = [Image.open(path).convert("RGB")] * count
        for frame in every:
            yield frame.resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC)


class LiveSource:
    """Frames of an iterator, each when it is due."""

    def __init__(self, frames: Callable[[], Iterator[Image.Image]], rate: float) -> None:
        self._frames, self._rate = frames(), rate
        self._next = next(self._frames)
        self._stop, self._count, self._start = threading.Event(), 0, time.monotonic()

    def open(self) -> SourceFormat:
        """Return what it shows."""
        return SourceFormat(*self._next.size, self._rate, "made in RGB", "driver")

    def read(self) -> Capture | None:
        """Return the next frame when it is due; None once aborted."""
        due = self._start + self._count / self._rate
        if self._stop.wait(max(0.0, due - time.monotonic())):
            return None
        self._count += 1
        shown, self._next = self._next, next(self._frames)
        return Capture(np.asarray(shown), time.monotonic_ns(), "driver")

    def abort(self) -> None:
        """Give no more."""
        self._stop.set()

    def close(self) -> None:
        """Nothing to free."""


def make_loop(
    bundle_path: Path,
    address: str,
    board: Path,
    frames: Callable[[], Iterator[Image.Image]] = digits,
    rate: float = RATE,
) -> tuple[CameraLoop, DashboardSink]:
    """Return the camera loop over `frames` with a dashboard, sensors below `board`."""
    bundle = Bundle.open(bundle_path)
    device_trees.orin_nano(board)
    threading.Thread(target=stir, args=(board,), daemon=True).start()
    dashboard = make_sink(address, TelemetryReader(board).read)
    loop = CameraLoop(
        [SourceMaker(f"{frames.__name__}://", True, lambda: LiveSource(frames, rate))],
        open_session(bundle),
        bundle.spec,
        sinks=[dashboard],
        steps=[Smoothing("ema", 8, bundle.spec.labels), ConfidenceFloor(0.6)]
        if frames is digits
        else [],
    )
    return loop, dashboard


def stir(board: Path) -> None:
    """Move the made-up sensors, so that the page has something to draw."""
    for step in itertools.count():
        wave = math.sin(step / 9) + 0.4 * math.sin(step / 3.1)
        rails = [("VDD_IN", 4984, round(1856 + 190 * wave)), ("VDD_SOC", 4976, 304)]
        warm = round(51187 + 1600 * math.sin(step / 17))
        device_trees.write(board, device_trees.monitor(1, rails))
        device_trees.write(board, device_trees.zones(cpu=str(warm - 900), gpu=str(warm)))
        time.sleep(0.9)


def look(url: str, folder: Path) -> dict[str, bool]:
    """Take every view, and say whether the page shows answers and moving pictures."""
    with Chromium() as browser:
        for name, (width, height, is_dark) in VIEWS.items():
            browser.show(url, width, height, is_dark=is_dark, is_phone=width < 600)
            time.sleep(6)
            picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
            picture.quantize(255).save(folder / f"{name}.png", optimize=True)
        browser.show(url, 1440, 1200, is_dark=False, is_phone=False)
        time.sleep(3)
        scenes = set()
        for _ in range(6):
            scenes.add(browser.evaluate(_SCENE))
            time.sleep(FRAMES_PER_DIGIT / RATE)
        label = browser.evaluate("document.getElementById('best').textContent")
        return {
            "shows the model": browser.evaluate("document.title") == "vit_digits · edge-vit",
            "shows an answer": label in map(str, range(10)),
            "shows five bars": browser.evaluate("document.querySelectorAll('.bar').length") == 5,
            "shows the power": float(browser.evaluate(_POWER)) > 0,
            "pictures move": len(scenes) > 2,
            "loads nothing from elsewhere": browser.evaluate(_ADDRESSES) == [url],
            "fits the window": browser.evaluate("document.body.scrollWidth") <= 1440,
        }


def take_one(bundle: Path, folder: Path, rate: float, path: Path) -> None:
    """Write a picture of the upper half of the page while it shows what is below `folder`."""

    def frames() -> Iterator[Image.Image]:
        return pictures(folder, max(4, round(1.5 * rate)))

    frames.__name__ = folder.name
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as board:
        loop, dashboard = make_loop(bundle, "dashboard:0", Path(board), frames, rate)
        runner = threading.Thread(target=loop.run)
        runner.start()
        time.sleep(20)
        with Chromium() as browser:
            browser.show(dashboard.name, 1440, 690, is_dark=False, is_phone=False)
            time.sleep(12)
            picture = browser.screenshot()
            shown = browser.evaluate("document.getElementById('best').textContent")
        loop.stop()
        runner.join()
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, optimize=True)
    print(f"{path}: {shown}")
    if not shown.strip():
        sys.exit("the page shows no answer")


def status_of(url: str, token: str = "") -> int:
    """Return the status that `url` is answered with."""
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def own_address() -> str:
    """Return an address of this machine that other machines use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def stay_slow(port: int, token: str) -> list[socket.socket]:
    """Return clients that ask for the stream and never read it."""
    clients = []
    for _ in range(NUM_SLOW):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /stream.mjpg HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"
        client.sendall(request.encode())
        clients.append(client)
    return clients


def rate_over(loop: CameraLoop, seconds: float) -> float:
    """Return the answers a second over the next `seconds`."""
    before = loop.summary().counts.answered
    time.sleep(seconds)
    return (loop.summary().counts.answered - before) / seconds


def main() -> None:
    """Look, measure, and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--frames", type=Path, help="images or videos below it in place of digits: one picture"
    )
    parser.add_argument("--rate", type=float, default=RATE, help="frames per second of --frames")
    parser.add_argument("--name", default="dashboard-masks", help="of the picture of --frames")
    arguments = parser.parse_args()
    if arguments.frames:
        path = arguments.images / f"{arguments.name}.png"
        take_one(arguments.bundle, arguments.frames, arguments.rate, path)
        return
    load = load_average()
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as board:
        loop, dashboard = make_loop(arguments.bundle, "dashboard:0", Path(board))
        runner = threading.Thread(target=loop.run)
        runner.start()
        time.sleep(40)  # until percentiles are known, and the past has a shape
        checks: dict[str, object] = dict(look(dashboard.name, arguments.images))
        loop.stop()
        runner.join()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as board:
        os.environ["EDGEVIT_TOKEN"] = token
        loop, dashboard = make_loop(arguments.bundle, "dashboard:0.0.0.0:0", Path(board))
        runner = threading.Thread(target=loop.run)
        runner.start()
        time.sleep(5)
        port = int(dashboard.name.rstrip("/").rpartition(":")[2])
        address = f"http://{own_address()}:{port}/state"
        checks["status from another address without the token"] = status_of(address)
        checks["status from another address with it"] = status_of(address, token)
        alone, crowded = [], []
        for _ in range(ROUNDS):  # in turns, as others may use the machine
            alone.append(rate_over(loop, SECONDS))
            clients = stay_slow(port, token)
            crowded.append(rate_over(loop, SECONDS))
            for client in clients:
                client.close()
        loop.stop()
        runner.join()
    results = {**checks, "fps alone": alone, f"fps with {NUM_SLOW} slow clients": crowded}
    print(json.dumps(results, indent=1))
    conditions = {"source": f"{WIDTH} x {HEIGHT}, {RATE:g} frames/s, live", "browser": "chromium"}
    path = write_result(
        arguments.results, "dashboard", threads=2, load=load, conditions=conditions, results=results
    )
    print(path)
    if not all(checks[name] for name in checks if name.startswith(("shows", "pictures"))):
        sys.exit("the page does not show what it should")


if __name__ == "__main__":
    main()
