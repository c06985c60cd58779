"""Addresses of sources (``csi://0``, ``rtsp://...``, ``clip.mp4``), and options behind a #."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.threads import SYSTEM_CLOCK, Clock
from edge_vit.data.registry import VIDEO_SUFFIXES, frame_forms, kind_named, kind_of_scheme
from edge_vit.errors import SpecError
from edge_vit.plugins import import_target

DEFAULT_TIMEOUT_S = 5.0
Forms = Mapping[str, tuple[str, str]]  # by option: the pattern of its values, and the same in words

POSITIVE = (r"0*[1-9]\d*", "N, at least 1")
OPTION_FORMS: Forms = {
    **dict.fromkeys(("width", "height", "rate", "count"), POSITIVE),
    "transport": ("tcp|udp", "tcp or udp"),
    "format": ("[a-z0-9_]+", "mjpeg or yuyv422"),
}
"""Of options of sources; those of plug-ins that are not here may have any value."""

_SECRET = re.compile(r"(?i)((?:user|login|pass|pwd|pw|token|secret|auth|key)[\w-]*)=[^&\s!]*")
"""Credentials in queries and paths of cameras, and in properties of GStreamer's elements."""


@dataclass(frozen=True)
class SourceAddress:
    """A source of frames, as it was asked for."""

    kind: str  # name of its `SourceKind`
    target: str  # camera number, device, URL, path or pipeline
    name: str  # for people: the address without user name, password and options
    options: Mapping[str, str] = field(default_factory=dict)  # as typed; numbers are positive

    @property
    def is_live(self) -> bool:
        """Whether it goes on by itself, so that the newest frame counts."""
        return kind_named(self.kind).is_live and "count" not in self.options

    def number(self, name: str, default: int) -> int:
        """Return the option `name`, or `default` where it was not given."""
        return int(self.options.get(name, default))


def source_maker(
    address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, clock: Clock = SYSTEM_CLOCK
) -> SourceMaker:
    """Return the maker of the source at `address`; nothing is opened yet.

    A stream may take `timeout_s` to open, and to give a frame.
    """
    parsed = parse_address(address)
    opener = import_target(kind_named(parsed.kind).frames)
    return SourceMaker(parsed.name, parsed.is_live, lambda: opener(parsed, timeout_s, clock))


def parse_address(text: str) -> SourceAddress:
    """Return the meaning of an address and the options behind its ``#``."""
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
    address = _split(base, text)
    known = kind_named(address.kind).options
    options = parse_options(
        f"source {hide_password(text)}", address.kind, tail, known, OPTION_FORMS
    )
    return SourceAddress(address.kind, address.target, address.name, options)


def _split(base: str, text: str) -> SourceAddress:
    """Return the address without options."""
    scheme, separator, rest = base.partition("://")
    if not separator:
        scheme, rest = ("v4l2", base) if base.isdecimal() else ("file", base)
    if scheme in ("csi", "test", "v4l2") and "?" in rest:
        wanted = base.replace("?", "#").replace("&", ",")
        raise SpecError(f"source {text}: options stand behind a #. Write {wanted}")
    if scheme == "csi":
        if not re.fullmatch(r"\d*", rest):
            raise SpecError(f"source {text}: got camera {rest!r}, expected a number: csi://0")
        return SourceAddress("csi", rest or "0", f"csi://{rest or '0'}")
    if scheme == "v4l2":
        device = f"/dev/video{rest}" if rest.isdecimal() else rest
        if not device.startswith("/dev/"):
            raise SpecError(f"source {text}: got {device!r}, expected v4l2:///dev/video0")
        return SourceAddress("v4l2", device, f"v4l2://{device}")
    if scheme == "file":
        return _path_address(base)
    kind = kind_of_scheme(scheme, hide_password(text), has_frames=True)
    if not kind.frames:
        raise SpecError(f"source {text} gives images and no frames, expected {frame_forms()}")
    if kind.name not in ("rtsp", "http"):
        return SourceAddress(kind.name, rest, base)
    if split_url(base) is None or "@" in text.removeprefix(base):
        raise SpecError(
            f"source {hide_password(text)}: got no host and port, expected "
            f"{scheme}://USER:PASSWORD@HOST:PORT/PATH. In a password # is written %23, / is "
            "%2F, ? is %3F"
        )
    return SourceAddress(kind.name, base, hide_password(base))


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


def parse_options(
    what: str, kind: str, tail: str, known: Collection[str], forms: Forms
) -> dict[str, str]:
    """Return the options in `tail`, such as ``width=640,height=480``, of which `known` are taken.

    Those in `forms` are held to them. `what` begins the message of a SpecError.
    """
    options = {}
    for part in filter(None, re.split("[,&]", tail)):
        name, _, value = part.partition("=")
        if name not in known:
            wanted = ", ".join(known) or "none"
            raise SpecError(f"{what}: got option {name!r}, expected of {kind}: {wanted}")
        pattern, words = forms.get(name, (".*", ""))
        if not re.fullmatch(pattern, value):
            raise SpecError(f"{what}: got {part!r}, expected {name}={words}")
        options[name] = value
    return options


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
