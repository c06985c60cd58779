"""Addresses of sinks, as people write them: ``stdout``, ``answers.jsonl``, ``mqtt://...``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_vit.camera.sink import Sink
from edge_vit.camera.sinks.json_lines import MAX_BYTES, NUM_KEPT, JsonLinesSink, StdoutSink
from edge_vit.camera.sinks.mqtt import MqttSink
from edge_vit.camera.sinks.video_file import SUFFIXES, VideoFileSink
from edge_vit.camera.sinks.web.access import TOKEN_VARIABLE
from edge_vit.camera.sinks.web.dashboard import HOST, PORT, DashboardSink
from edge_vit.camera.sinks.webhook import WebhookSink
from edge_vit.device.telemetry import Telemetry
from edge_vit.errors import SpecError
from edge_vit.files import refuse_unwritable

FORMS = (
    "stdout, FILE.jsonl, FILE.mp4, dashboard[:[HOST:]PORT], mqtt://HOST/TOPIC or https://HOST/PATH"
)

_DASHBOARD = re.compile(r"dashboard(?::(?:(?P<host>.+):)?(?P<port>\d{1,5}))?")
_OPTIONS = {
    "jsonl": {"max-mb": r"[1-9]\d{0,6}", "keep": r"\d{1,4}"},
    "mqtt": {"qos": "[01]"},
    "webhook": {"on": "change|every", "interval": r"\d{1,6}(\.\d+)?"},
}


def make_sink(
    address: str,
    read: Callable[[], Telemetry] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Sink:
    """Return the sink at `address`; its options stand behind a ``#``: ``mqtt://HOST/TOPIC#qos=1``.

    Args:
        address: one of `FORMS`. A dashboard on another address than loopback takes its token from
            the variable EDGEVIT_TOKEN.
        read: one reading of the machine's sensors, for the dashboard.
        environment: where the token is looked up.
    """
    base, _, tail = address.partition("#")
    scheme = base.partition("://")[0] if "://" in base else ""
    if scheme in ("mqtt", "mqtts"):
        options = _parse_options("mqtt", tail)
        return MqttSink(base, qos=int(options.get("qos", 0)))
    if scheme in ("http", "https"):
        options = _parse_options("webhook", tail)
        is_every = options.get("on") == "every"
        interval_s = float(options.get("interval", 1 if is_every else 0))
        return WebhookSink(base, on="every" if is_every else "change", interval_s=interval_s)
    if scheme or not base:
        raise SpecError(f"sink: got {scheme or base!r}, expected {FORMS}")
    if base.lower().endswith(".jsonl"):
        refuse_unwritable(Path(base))
        options = _parse_options("jsonl", tail)
        megabytes = options.get("max-mb")
        max_bytes = int(megabytes) << 20 if megabytes else MAX_BYTES
        return JsonLinesSink(Path(base), max_bytes, int(options.get("keep", NUM_KEPT)))
    _refuse_options(base, tail)
    if base in ("stdout", "-"):
        return StdoutSink()
    if Path(base).suffix.lower() in SUFFIXES:
        refuse_unwritable(Path(base))
        return VideoFileSink(Path(base))
    return _dashboard(base, read, environment)


def _dashboard(
    base: str, read: Callable[[], Telemetry] | None, environment: Mapping[str, str]
) -> DashboardSink:
    found = _DASHBOARD.fullmatch(base)
    if found is None:
        raise SpecError(f"sink: got {base!r}, expected {FORMS}")
    port = int(found["port"] or PORT)
    if port > 65535:
        raise SpecError(f"sink {base}: got port {port}, expected one up to 65535")
    host = (found["host"] or HOST).strip("[]")
    return DashboardSink(host, port, environment.get(TOKEN_VARIABLE) or None, read)


def _parse_options(kind: str, tail: str) -> dict[str, str]:
    options, known = {}, _OPTIONS[kind]
    for part in filter(None, re.split("[,&]", tail)):
        name, _, value = part.partition("=")
        if name not in known:
            raise SpecError(f"sink: got option {name!r}, expected of {kind}: {', '.join(known)}")
        if not re.fullmatch(known[name], value):
            raise SpecError(f"sink: got {part!r}, expected {name} of the form {known[name]}")
        options[name] = value
    return options


def _refuse_options(base: str, tail: str) -> None:
    if tail:
        raise SpecError(f"sink {base}: got option {tail!r}, expected none")
