"""Addresses of sources, as people write them: ``csi://0``, ``rtsp://...``, ``clip.mp4``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from edge_vit.data.registry import VIDEO_SUFFIXES, frame_forms, kind_named, kind_of_scheme
from edge_vit.errors import SpecError

_NUMBERS = ("width", "height", "rate", "count")
_TRANSPORTS = ("tcp", "udp")
_SECRET = re.compile(r"(?i)((?:user|login|pass|pwd|pw|token|secret|auth|key)[\w-]*)=[^&\s!]*")
"""What cameras are told in queries and paths, and elements of GStreamer in properties."""


@dataclass(frozen=True)
class SourceAddress:
    """A source of frames, as it was asked for.

    Attributes:
        kind: name of its `SourceKind`.
        target: camera number, device, URL, path or pipeline.
        name: for people: the address without user name, password and options.
        options: by name, as typed; numbers are positive.
    """

    kind: str
    target: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """Whether it goes on without us, so that the newest frame counts."""
        return kind_named(self.kind).is_live and "count" not in self.options

    def number(self, name: str, default: int) -> int:
        """Return the option `name`, or `default` where it was not given."""
        return int(self.options.get(name, default))


def parse_address(text: str) -> SourceAddress:
    """Return what `text` means.

    Args:
        text: an address, and behind a ``#`` its options: ``csi://0#width=1920,height=1080``.

    Raises:
        SpecError: it is no address of a source, or an option is not one of its kind.
    """
    if text.startswith("gst:"):
        pipeline = text.removeprefix("gst:").strip()
        if not pipeline:
            raise SpecError("source gst:: got no pipeline, expected gst:ELEMENT ! ELEMENT")
        first = " ".join(map(hide_password, pipeline.partition("!")[0].split()))
        return SourceAddress("gst", pipeline, f"gst:{first}")
    # A file's name may hold anything; a number alone is a camera.
    if Path(text.removeprefix("file://")).exists() and not text.isdecimal():
        return _path_address(text)
    base, _, tail = text.partition("#")
    kind, target, name = _split(base, text)
    return SourceAddress(kind, target, name, _parse_options(kind, tail, text))


def _split(base: str, text: str) -> tuple[str, str, str]:
    """Kind, target and name of an address without options."""
    scheme, separator, rest = base.partition("://")
    if separator and scheme in ("csi", "test", "v4l2") and "?" in rest:
        wanted = base.replace("?", "#").replace("&", ",")
        raise SpecError(f"source {text}: options stand behind a #. Write {wanted}")
    if separator and scheme == "csi":
        if not re.fullmatch(r"\d*", rest):
            raise SpecError(f"source {text}: got camera {rest!r}, expected a number: csi://0")
        return "csi", rest or "0", f"csi://{rest or '0'}"
    if separator and scheme == "test":
        return "test", rest, f"test://{rest}"
    if (separator and scheme == "v4l2") or re.fullmatch(r"\d+", base):
        device = rest if separator else base
        device = f"/dev/video{device}" if re.fullmatch(r"\d+", device) else device
        if not device.startswith("/dev/"):
            raise SpecError(f"source {text}: got {device!r}, expected v4l2:///dev/video0")
        return "v4l2", device, f"v4l2://{device}"
    kind = kind_of_scheme(scheme, hide_password(text)) if separator and scheme != "file" else None
    if kind is not None and not kind.frames:
        raise SpecError(f"source {text} gives images and no frames, expected {frame_forms()}")
    if kind is not None and kind.name not in ("rtsp", "http"):
        return kind.name, rest, base
    if kind is not None:
        if split_url(base) is None or "@" in text.removeprefix(base):
            raise SpecError(
                f"source {hide_password(text)}: got no host and port, expected "
                f"{scheme}://USER:PASSWORD@HOST:PORT/PATH. In a password # is written %23, / is "
                "%2F, ? is %3F"
            )
        return kind.name, base, hide_password(base)
    address = _path_address(base)
    return address.kind, address.target, address.name


def _path_address(text: str) -> SourceAddress:
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        return SourceAddress("folder", str(path), str(path))
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return SourceAddress("video", str(path), str(path))
    if path.is_file():
        raise SpecError(
            f"source {path} is no video by its name, which would end in one of "
            f"{' '.join(VIDEO_SUFFIXES)}. Rename it, or give the folder that holds it"
        )
    raise SpecError(f"source {hide_password(text)} does not exist, expected one of {frame_forms()}")


def hide_password(url: str) -> str:
    """Return `url` without user name and password, wherever they stand in it."""
    parts = split_url(url)
    if parts is not None and "@" not in parts.fragment:
        if "@" in parts.netloc:
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    elif "://" in url:  # a password that cuts it short: what comes last is no part of it
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{rest.rpartition('@')[2]}"
    return _SECRET.sub(r"\1=***", url)


def split_url(url: str) -> SplitResult | None:
    """Return the parts of `url`; None where it has no host, or its port is no number."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _parse_options(kind: str, tail: str, text: str) -> dict[str, str]:
    options, known = {}, kind_named(kind).options
    for part in filter(None, re.split("[,&]", tail)):
        name, _, value = part.partition("=")
        if name not in known:
            raise SpecError(
                f"source {hide_password(text)}: got option {name!r}, expected of {kind}: "
                f"{', '.join(known) or 'none'}"
            )
        if name in _NUMBERS and (not value.isdecimal() or int(value) < 1):
            raise SpecError(f"source {text}: got {part!r}, expected {name}=N, at least 1")
        if name == "transport" and value not in _TRANSPORTS:
            raise SpecError(f"source {hide_password(text)}: got {part!r}, expected tcp or udp")
        if name == "format" and not re.fullmatch("[a-z0-9_]+", value):
            raise SpecError(f"source {text}: got {part!r}, expected format=mjpeg or yuyv422")
        options[name] = value
    return options
