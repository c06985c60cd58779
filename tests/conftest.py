"""What every test shares: two threads, no network, and where results are written."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from seeded import Seeded

    from edge_vit.bundle import Bundle
    from edge_vit.spec.table import CalibrationTable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: more is slower for tiny models
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("COLUMNS", None)  # a worker of pytest-xdist has it: tables are as wide as in a file

STATIC_BATCH = 3

# The same examples each time, in whatever time a busy machine takes for them.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

LONGEST = (
    *("test_examples", "test_families", "test_model_zoo", "test_constructed", "test_architectures"),
    *("test_cli_verify", "test_cli_generation", "test_partial", "test_robust", "test_kills"),
)
"""Files of more than ten seconds."""

RECORDED = pytest.StashKey[dict[str, dict[str, object]]]()

# A shell starts what is in its background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results", type=Path, metavar="DIR", help="write what `record_result` was told to DIR"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDED] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, and count lines in the first case of a test alone.

    Short files at the end keep all workers busy. What is covered is a little more than is counted:
    lines that only a later case reaches are not.
    """
    long = {item.path for item in items if item.get_closest_marker("uncounted")}
    items.sort(key=lambda item: (item.path.stem not in LONGEST, item.path not in long))
    counted = set[object]()
    for item in items:
        function = getattr(item, "function", item)
        if function in counted:
            item.add_marker("uncounted")
        counted.add(function)


def pytest_collection_finish() -> None:
    """Leave what the libraries hold out of garbage collections, which go through all of it."""
    gc.freeze()


@contextlib.contextmanager
def uncounted(config: pytest.Config, is_wanted: bool) -> Iterator[None]:
    """Pause coverage, which makes Python half as slow again, where it runs and `is_wanted`."""
    controller = getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if not is_wanted or controller is None or not controller.started:
        yield
        return
    controller.pause()
    try:
        yield
    finally:
        controller.resume()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count no line of an `uncounted` test, from the setup of its fixtures to their end."""
    with uncounted(item.config, item.get_closest_marker("uncounted") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Count no line of what tests share: exports, trainings, calibrations."""
    with uncounted(request.config, fixturedef.scope != "function"):
        return (yield)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a file or folder once for all processes of this run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def make(name: str, write: Callable[[Path], object]) -> Path:
        from edge_vit.locks import locked

        path, made = folder / name, folder / f"{name}.made"
        with locked(folder / f"{name}.lock"):
            if not made.exists():
                write(path)
                made.touch()
        return path

    return make


@pytest.fixture(scope="session")
def weights(make_once: Callable[..., Path]) -> Path:
    """Return the checkpoint of the tiny model, to read only."""
    from tiny import train_tiny

    return make_once("tiny.safetensors", train_tiny)


@pytest.fixture(scope="session")
def shared_bundle(make_once: Callable[..., Path], weights: Path) -> Bundle:
    """Return the bundle of the tiny model with every precision, to read only."""
    from tiny import tiny_calibration

    from edge_vit.api import export_bundle
    from edge_vit.bundle import Bundle

    def export(path: Path) -> None:
        images = tiny_calibration()
        export_bundle(f"edgevit:{weights}", path, precision="int8", calibration=images, threads=1)

    return Bundle.open(make_once("tiny.edgevit", export))


@pytest.fixture
def record_result(request: pytest.FixtureRequest) -> Callable[[str, str, object], None]:
    """Return ``record(suite, case, numbers)``: `make test-full` writes them to ``results/``."""
    recorded = request.config.stash[RECORDED]

    def record(suite: str, case: str, numbers: object) -> None:
        recorded.setdefault(suite, {})[case] = numbers

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder: Path | None = session.config.getoption("--results")
    if folder is None:
        return
    from edge_vit.measure.environment import read_environment
    from edge_vit.values import to_json

    folder.mkdir(parents=True, exist_ok=True)
    for suite, cases in session.config.stash[RECORDED].items():
        report = {"environment": to_json(read_environment()), "results": to_json(cases)}
        path = folder / f"{suite}-{platform.machine()}-py{platform.python_version()}.json"
        path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="session")
def vit() -> Seeded:
    """A small seeded vision transformer with a dynamic batch axis."""
    from seeded import seeded_vit

    return seeded_vit()


@pytest.fixture(scope="session")
def static_vit() -> Seeded:
    """The same weights, with a fixed batch of three."""
    from seeded import seeded_vit

    return seeded_vit(STATIC_BATCH)


@pytest.fixture(scope="session")
def table(vit: Seeded) -> CalibrationTable:
    """The calibration table of `vit`, and of `static_vit`."""
    from seeded import random_images

    return vit.calibrate(random_images(16))


@pytest.fixture(params=["dynamic", "static"])
def either_vit(request: pytest.FixtureRequest) -> Seeded:
    """The graph with a dynamic batch axis, then the one with a fixed batch of three."""
    return request.getfixturevalue("vit" if request.param == "dynamic" else "static_vit")
