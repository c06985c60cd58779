"""Values that documents state, read from where the code keeps them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from edge_vit.measure.results import Verdict


def option(command: str, flag: str) -> Any:
    """Return the default of a command's option."""
    found = importlib.import_module(f"edge_vit.cli.{command}").command
    (param,) = (p for p in found.params if flag in p.opts)
    assert isinstance(param, click.Option)
    default = param.get_default(click.Context(found))
    return None if repr(default) == "Sentinel.UNSET" else default  # click 8.3's word for none


def default_of(cls: type, name: str) -> Any:
    (field,) = (f for f in fields(cls) if f.name == name)
    return field.default


def argument(function: Callable[..., object], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def status_of(outcome: str) -> int:
    verdict = Verdict("int8", "int8", outcome, "", ())  # type: ignore[arg-type]
    return verdict.exit_status


def smallest_is_default() -> str:
    """Return what `open_session` does without a precision, by its own code."""
    from edge_vit.bundle import Bundle
    from edge_vit.runtime import session

    source = inspect.getsource(session.open_session)
    assert "precision or bundle.smallest_precision" in source
    assert argument(session.open_session, "precision") is None
    assert isinstance(Bundle.smallest_precision, property)
    return "smallest"


def below(value: float, limit: float) -> str:
    assert value < limit
    return "billion"


def name_of_progress() -> str:
    from edge_vit.api import calibrate, export_bundle
    from edge_vit.measure.verify import verify
    from edge_vit.progress import SILENT

    assert all(argument(f, "progress") is SILENT for f in (verify, calibrate, export_bundle))
    return "SILENT"


def degraded_status() -> int:
    from edge_vit.runtime.options import DEGRADED_STATUS

    return DEGRADED_STATUS


def doctor_status() -> int:
    from edge_vit.cli import doctor

    source = inspect.getsource(doctor)
    (status,) = re.findall(r"context\.exit\((\d)\)", source)
    return int(status)


def stream_transport() -> str:
    from edge_vit.camera.sources import stream

    (transport,) = re.findall(r'get\("transport", "(\w+)"\)', inspect.getsource(stream))
    return str(transport)


def dashboard_listens_to() -> str:
    from edge_vit.camera.sinks.web import dashboard

    return {"127.0.0.1": "this machine alone"}[dashboard.HOST]


def webhook_default() -> str:
    from edge_vit.camera.sinks import webhook

    return str(argument(webhook.WebhookSink.__init__, "on"))
