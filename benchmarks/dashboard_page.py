"""The dashboard in a real browser: it moves, it refuses strangers, slow clients do not slow the loop.

    edgevit quickstart digits-demo
    python benchmarks/dashboard_page.py digits-demo/digits.edgevit

A source shows handwritten digits, the bundle answers, headless Chromium looks at the page on a desk and
on a phone, by day and by night. The sensors are a folder laid out like an Orin Nano's, whose numbers
are made up: they show the page, not a machine. Writes `docs/images/dashboard*.png` and `results/`.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edge_vit.bundle import Bundle
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sinks.addresses import make_sink
from edge_vit.camera.sinks.web.dashboard import DashboardSink
from edge_vit.camera.smoothing import ConfidenceFloor, Smoothing
from edge_vit.camera.sources.source import Capture, SourceMaker
from edge_vit.camera.values import SourceFormat
from edge_vit.device import TelemetryReader
from edge_vit.runtime import open_session
from edge_vit.training.datasets import load_digits

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import device_trees  # noqa: E402

WIDTH, HEIGHT, RATE = 640, 480, 30.0
FRAMES_PER_DIGIT = 45
VIEWS = {
    "dashboard": ("1440,1130", False),
    "dashboard-dark": ("1440,1130", True),
    "dashboard-phone": ("500,1500", False),
    "dashboard-phone-dark": ("500,1500", True),
}
NUM_SLOW = 50


class DigitsSource:
    """Handwritten digits on a board, each for a while, wandering a little."""

    def __init__(self) -> None:
        images = load_digits().test_images
        order = np.random.default_rng(5).permutation(len(images))
        self._images = [Image.fromarray(images[i]) for i in order]
        self._stop, self._count, self._start = threading.Event(), 0, time.monotonic()

    def open(self) -> SourceFormat:
        return SourceFormat(WIDTH, HEIGHT, RATE, "made in RGB", "driver")

    def read(self) -> Capture | None:
        due = self._start + self._count / RATE
        if self._stop.wait(max(0.0, due - time.monotonic())):
            return None
        place, phase = divmod(self._count, FRAMES_PER_DIGIT)
        self._count += 1
        digit = self._images[place % len(self._images)]
        side = HEIGHT
        frame = Image.new("RGB", (WIDTH, HEIGHT), digit.getpixel((0, 0)))
        turn = math.sin(phase / FRAMES_PER_DIGIT * math.tau)
        big = digit.resize((side, side), Image.Resampling.BICUBIC)
        frame.paste(big, (round((WIDTH - side) / 2 + 8 * turn), round(4 * turn)))
        return Capture(np.asarray(frame), time.monotonic_ns(), "driver")

    def abort(self) -> None:
        self._stop.set()

    def close(self) -> None:
        """Nothing to free."""


def make_loop(bundle_path: Path, address: str, board: Path) -> tuple[CameraLoop, DashboardSink]:
    """Return the camera loop over digits with a dashboard, sensors below `board`."""
    bundle = Bundle.open(bundle_path)
    device_trees.orin_nano(board)
    threading.Thread(target=stir, args=(board,), daemon=True).start()
    dashboard = make_sink(address, TelemetryReader(board).read)
    loop = CameraLoop(
        [SourceMaker("digits://", is_live=True, make=DigitsSource)],
        open_session(bundle),
        bundle.spec,
        sinks=[dashboard],
        steps=[Smoothing("ema", 8, bundle.spec.labels), ConfidenceFloor(0.6)],
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


def screenshot(url: str, size: str, is_dark: bool, path: Path) -> None:
    """Let Chromium look at `url` for a few seconds, and keep what it sees."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", f"--window-size={size}", "--timeout=6000"),
            *(["--blink-settings=preferredColorScheme=0"] if is_dark else []),
            *(f"--screenshot={path}", url),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def read_dom(url: str) -> str:
    """Return the page as Chromium has it after a few seconds."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={profile}", "--timeout=4000", "--dump-dom", url),
        ]
        done = subprocess.run(command, check=True, capture_output=True, timeout=120)
    return done.stdout.decode()
