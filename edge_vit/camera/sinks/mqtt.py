"""Predictions published over MQTT, with a status topic that shows when the camera is gone.

``TOPIC`` takes each prediction as JSON; ``TOPIC/status`` is ``online`` or ``offline``, retained:
the broker itself publishes ``offline`` when the connection is lost (its last will).
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.parse
from typing import Any

from edge_vit.camera.sink import Sink, Summarize
from edge_vit.camera.sinks.json_lines import json_line
from edge_vit.camera.sources.address import hide_password, split_url
from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import BackendError, SpecError
from edge_vit.optional import require

TIMEOUT_S = 5.0
_KEEP_ALIVE_S = 30
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttSink(Sink):
    """Publishes to ``mqtt://[user:password@]host[:port]/topic``, or ``mqtts://`` for TLS.

    Connects by itself, and again after the connection was lost. `qos` 0 is at most once, 1 at least
    once; one prediction may take `timeout_s` to be sent.
    """

    def __init__(self, url: str, qos: int = 0, timeout_s: float = TIMEOUT_S) -> None:
        parts = split_url(url)
        self._topic = urllib.parse.unquote(parts.path).strip("/") if parts else ""
        if parts is None or parts.scheme not in _PORTS or not self._topic:
            raise SpecError(f"mqtt: got {hide_password(url)}, expected mqtt://HOST[:PORT]/TOPIC")
        if set("+#") & set(self._topic):
            raise SpecError(f"mqtt: topic {self._topic!r}, expected one without + and #")
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{self._topic}"
        self._parts, self._qos, self._timeout_s = parts, qos, timeout_s
        self._status_topic = f"{self._topic}/status"
        self._client: Any = None
        self._reason, self._is_welcome = "not connected yet", False

    def open(self, summarize: Summarize) -> None:
        """Begin to connect; a broker that is not there yet is tried again and again."""
        mqtt: Any = require("paho.mqtt.client", "publishing over MQTT")
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.will_set(self._status_topic, "offline", qos=1, retain=True)
        if self._parts.username is not None:
            user = urllib.parse.unquote(self._parts.username)
            client.username_pw_set(user, urllib.parse.unquote(self._parts.password or ""))
        if self._parts.scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context())
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.suppress_exceptions = True  # else one in a callback ends the client's thread
        client.reconnect_delay_set(1, 60)
        client.max_queued_messages_set(self.queue_size)  # a broker may confirm nothing for weeks
        port = self._parts.port or _PORTS[self._parts.scheme]
        client.connect_async(self._parts.hostname, port, _KEEP_ALIVE_S)
        client.loop_start()
        self._client = client

    def write(self, prediction: CameraPrediction) -> None:
        """Publish `prediction`."""
        if not self._client.is_connected():
            raise BackendError(self._reason)
        message = self._client.publish(self._topic, json_line(prediction).rstrip(), qos=self._qos)
        try:
            message.wait_for_publish(self._timeout_s)
            is_sent = message.is_published()
        except (RuntimeError, ValueError) as error:
            raise BackendError(str(error)) from None
        if not is_sent:
            raise BackendError(f"the broker took nothing for {self._timeout_s:g} s")

    def close(self) -> None:
        """Publish ``offline`` and leave."""
        if self._client is None:
            return
        if self._client.is_connected():
            message = self._client.publish(self._status_topic, "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the connection was lost just now
                message.wait_for_publish(min(1.0, self._timeout_s))
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._reason = f"the broker refused: {reason}"  # and hangs up; this stays the reason
            return
        self._is_welcome = True
        client.publish(self._status_topic, "online", qos=1, retain=True)

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._reason = "no broker answers there"

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if self._is_welcome:
            self._reason, self._is_welcome = f"connection lost: {reason}", False
