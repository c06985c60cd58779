from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vit.camera.sources.gstreamer import Caps, GdpBuffer, parse_caps, read_packet, to_pixels
from edge_vit.errors import SourceError

CAPS = (
    "video/x-raw, format=(string)RGB, width=(int)66, height=(int)48, framerate=(fraction)30/1, "
    "multiview-mode=(string)mono"
)


def packet(kind, payload, time_ns=7, version=(1, 0)):
    header = struct.pack(">BBBxHIQ", *version, 0, kind, len(payload), time_ns)
    return header.ljust(62, b"\0") + payload


def test_reads_formats_and_frames_and_leaves_out_events():
    data = packet(64, b"event") + packet(2, CAPS.encode() + b"\0") + packet(1, b"abc")
    pipe = io.BufferedReader(io.BytesIO(data + packet(1, b"", 2**64 - 1)))
    assert read_packet(pipe) == Caps(66, 48, 30)
    frame = read_packet(pipe)
    assert (bytes(frame.data), frame.time_ns) == (b"abc", 7)
    assert read_packet(pipe).time_ns is None
    assert read_packet(pipe) is None


def test_rows_are_padded_to_four_bytes():
    caps = parse_caps(CAPS)
    assert caps.stride == 200
    rows = np.random.default_rng(0).integers(0, 256, (48, 200), dtype=np.uint8)
    pixels = to_pixels(GdpBuffer(bytearray(rows.tobytes()), 0), caps)
    np.testing.assert_array_equal(pixels, rows[:, :198].reshape(48, 66, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packet(1, b"abc", version=(0, 2)), "not its protocol"),
        (b"\xff" * 62, "not its protocol"),
        (packet(1, b"abc")[:-1], "broke off within a frame"),
        (packet(1, b"abc")[:40], "broke off within a frame"),
        (packet(1, b"abc")[:62], "broke off within a frame"),
        (packet(2, b"audio/x-raw, rate=(int)8"), "expected raw RGB video"),
        (packet(2, CAPS.replace("RGB", "NV12").encode()), "expected raw RGB video"),
        (packet(2, CAPS.replace("30/1", "30/0").encode()), "expected raw RGB video"),
        (packet(2, b"video/x-raw, format=(string)RGB, width=(int)wide"), "expected raw RGB video"),
    ],
)
def test_refuses_what_is_not_its_protocol(data, message):
    with pytest.raises(SourceError, match=message):
        read_packet(io.BufferedReader(io.BytesIO(data)))


def test_refuses_a_frame_of_another_size():
    with pytest.raises(SourceError, match="a frame of 3 bytes, expected 9600"):
        to_pixels(GdpBuffer(bytearray(3), 0), parse_caps(CAPS))


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_packet_or_one_error(data):
    pipe = io.BufferedReader(io.BytesIO(data))
    try:
        while read_packet(pipe) is not None:
            pass
    except SourceError as error:
        assert "\n" not in str(error)
