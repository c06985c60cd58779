"""Sinks by their address: ``stdout``, ``answers.jsonl``, ``mqtt://...``."""

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
from edge_vit.camera.sources.address import POSITIVE, Forms, parse_options
from edge_vit.device.telemetry import Telemetry
from edge_vit.errors import SpecError
from edge_vit.files import refuse_unwritable

FORMS = (
    "stdout, FILE.jsonl, FILE.mp4, dashboard[:[HOST:]PORT], mqtt://HOST/TOPIC or https://HOST/PATH"
)

_DASHBOARD = re.compile(r"dashboard(?::(?:(?P<host>.+):)?(?P<port>\d{1,5}))?")
_OPTIONS: Mapping[str, Forms] = {
    "jsonl": {"max-mb": POSITIVE, "keep": (r"\d{1,4}", "N")},
    "mqtt": {"qos": ("[01]", "0 or 1")},
    "webhook": {
        "on": ("change|every", "change or every"),
        "interval": (r"\d{1,6}(\.\d+)?", "SECONDS"),
    },
}
_SCHEMES = {"mqtt": "mqtt", "mqtts": "mqtt", "http": "webhook", "https": "webhook"}


def make_sink(
    address: str,
    read: Callable[[], Telemetry] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Sink:
    """Return the sink at `address`; its options stand behind a ``#``: ``mqtt://HOST/TOPIC#qos=1``.

    `read` gives one reading of the machine's sensors, for a dashboard, and `environment` the token
    EDGEVIT_TOKEN that a dashboard on another address than loopback needs.
    """
    base, _, tail = address.partition("#")
    scheme, separator, _ = base.partition("://")
    dashboard = _DASHBOARD.fullmatch(base)
    if separator:
        kind = _SCHEMES.get(scheme, "")
    elif base in ("stdout", "-"):
        kind = "stdout"
    else:
        suffix = Path(base).suffix.lower()
        kind = "jsonl" if suffix == ".jsonl" else "video" if suffix in SUFFIXES else ""
        kind = kind or ("dashboard" if dashboard else "")
    if not kind:
        raise SpecError(f"sink: got {scheme if separator else base!r}, expected {FORMS}")
    forms = _OPTIONS.get(kind, {})
    options = parse_options("sink", kind, tail, forms, forms)
    if kind in ("jsonl", "video"):
        refuse_unwritable(Path(base))
    if kind == "mqtt":
        return MqttSink(base, qos=int(options.get("qos", 0)))
    if kind == "webhook":
        on = options.get("on", "change")
        return WebhookSink(base, on, float(options.get("interval", on == "every")))
    if kind == "jsonl":
        max_bytes = int(options["max-mb"]) << 20 if "max-mb" in options else MAX_BYTES
        return JsonLinesSink(Path(base), max_bytes, int(options.get("keep", NUM_KEPT)))
    if kind == "video":
        return VideoFileSink(Path(base))
    if dashboard is None:
        return StdoutSink()
    port = int(dashboard["port"] or PORT)
    if port > 65535:
        raise SpecError(f"sink {base}: got port {port}, expected one up to 65535")
    host = (dashboard["host"] or HOST).strip("[]")
    return DashboardSink(host, port, environment.get(TOKEN_VARIABLE) or None, read)
