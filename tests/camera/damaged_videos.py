"""Videos as they come from the field: trimmed, raw, cut, and with bytes destroyed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from camera.videos import picture

COUNT = 40
_OPTIONS = {
    "libx264": {"g": "20", "bf": "2"},
    "mpeg4": {"g": "20", "bf": "2"},
    "mpeg2video": {"g": "20", "bf": "2"},
    "libx265": {"x265-params": "keyint=20:log-level=none"},
    "libvpx-vp9": {"g": "20"},
}


@dataclass(frozen=True)
class Clip:
    """How to make a video, and what is to come of it.

    Attributes:
        make: writes it at a path with `name`'s suffix.
        shown: numbers of the pictures that are good, in order; None where the encoder decides.
        total: frames that the file is to show, the bad ones included.
    """

    name: str
    make: Callable[[Path], object]
    shown: tuple[int, ...] | None = None
    total: int = COUNT


def encode(path: Path, codec: str = "libx264", format: str | None = None, **muxer: str) -> Path:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w", format=format, options=muxer) as container:
        stream = container.add_stream(codec, rate=30, options=_OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _whole(path: Path, *arguments: str, **muxer: str) -> Path:
    return encode(path.with_name(f"whole-{path.name}"), *arguments, **muxer)


def remux(source: Path, target: Path, *, shift: int = 0, drop: Iterable[int] = ()) -> None:
    """Copy packets to `target`, `shift` frames earlier, without those of the numbers `drop`."""
    options = {"avoid_negative_ts": "disabled"} if shift else {}
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as copy:
        stream = given.streams.video[0]
        new = copy.add_stream_from_template(stream)
        offset = round(shift / 30 / stream.time_base)
        packets = (packet for packet in given.demux(stream) if packet.size)
        for number, packet in enumerate(packets):
            if number not in drop:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = new
                copy.mux(packet)


def spoil(path: Path, numbers: Iterable[int], keep: float = 0.5) -> None:
    """Destroy the packets of `numbers`, but for their first share `keep`."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in numbers:
        position, size = places[number]
        for byte in range(position + round(size * keep), position + size):
            data[byte] = data[byte] ^ 0x5A if keep else 0
    path.write_bytes(data)


def cut(source: Path, target: Path, share: float) -> None:
    data = source.read_bytes()
    target.write_bytes(data[: round(len(data) * share)])


def trimmed(path: Path, *arguments: str) -> None:
    remux(_whole(path, *arguments), path, shift=8)


def mid_group(path: Path, *arguments: str) -> None:
    remux(_whole(path, *arguments), path, drop=range(5))


def spoiled(path: Path, codec: str, numbers: Iterable[int], keep: float = 0.5) -> None:
    spoil(encode(path, codec), numbers, keep)


def cut_off(path: Path, share: float, codec: str = "libx264", **muxer: str) -> None:
    cut(_whole(path, codec, **muxer), path, share)


def raw_mid_group(path: Path) -> None:
    with av.open(str(_whole(path, "libx264", "h264"))) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path.write_bytes(b"".join(packets[5:]))


def _all_but(*numbers: int) -> tuple[int, ...]:
    return tuple(number for number in range(COUNT) if number not in numbers)


ALL, SECOND = _all_but(), tuple(range(20, COUNT))
INTACT = (
    Clip("edit-list.mp4", trimmed, ALL[8:], 32),
    Clip("edit-list-hevc.mov", lambda path: trimmed(path, "libx265"), ALL[8:], 32),
    Clip("edit-list-mpeg2.mp4", lambda path: trimmed(path, "mpeg2video"), ALL[8:], 32),
    Clip("raw.h264", lambda path: encode(path, "libx264", "h264"), ALL),
    Clip("raw.hevc", lambda path: encode(path, "libx265", "hevc"), ALL),
    Clip("raw.mjpeg", lambda path: encode(path, "mjpeg", "mjpeg"), ALL),
    Clip("reordered.avi", encode, ALL),
    Clip("vp9.webm", lambda path: encode(path, "libvpx-vp9"), ALL),
)
DAMAGED = (
    Clip("mid-group.ts", mid_group, SECOND, 35),
    Clip("mid-group-hevc.ts", lambda path: mid_group(path, "libx265"), SECOND, 35),
    # The second key frame of this encoder is number 21.
    Clip("mid-group-mpeg2.ts", lambda path: mid_group(path, "mpeg2video"), ALL[21:], 35),
    Clip("mid-group.h264", raw_mid_group, SECOND, 35),
    Clip("first.avi", lambda path: spoiled(path, "mjpeg", [0], 0), ALL[1:]),
    Clip("first-three.avi", lambda path: spoiled(path, "mjpeg", range(3), 0), ALL[3:]),
    Clip("fifth.avi", lambda path: spoiled(path, "mjpeg", [5], 0), _all_but(5)),
    Clip("first-group.mp4", lambda path: spoiled(path, "libx264", [0], 0), SECOND),
    Clip("first-group-hevc.mp4", lambda path: spoiled(path, "libx265", [0], 0), SECOND),
    Clip("lost-hevc.mp4", lambda path: spoiled(path, "libx265", [7], 0)),
    Clip("concealed.mp4", lambda path: spoiled(path, "libx264", [6, 7, 8])),
    Clip("concealed-mpeg4.mp4", lambda path: spoiled(path, "mpeg4", [6, 7, 8])),
    Clip("concealed-mpeg2.mp4", lambda path: spoiled(path, "mpeg2video", [6, 7, 8])),
    Clip("cut.mkv", lambda path: cut_off(path, 0.6)),
    Clip("cut.mp4", lambda path: cut_off(path, 0.7, movflags="faststart")),
    Clip("cut.avi", lambda path: cut_off(path, 0.5, "mjpeg")),
)
