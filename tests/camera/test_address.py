from __future__ import annotations

import pytest

from edge_vit.camera.sources.address import hide_password, parse_address, source_maker
from edge_vit.camera.sources.stream import stream_options
from edge_vit.errors import SpecError

ADDRESSES = {
    "csi://0": ("csi", "0", "csi://0", {}),
    "csi://": ("csi", "0", "csi://0", {}),
    "csi://1#width=1920,height=1080,rate=60": (
        *("csi", "1", "csi://1"),
        {"width": "1920", "height": "1080", "rate": "60"},
    ),
    "0": ("v4l2", "/dev/video0", "v4l2:///dev/video0", {}),
    "v4l2:///dev/video2#format=mjpeg": (
        *("v4l2", "/dev/video2", "v4l2:///dev/video2"),
        {"format": "mjpeg"},
    ),
    "v4l2:///dev/v4l/by-id/usb-cam": (
        *("v4l2", "/dev/v4l/by-id/usb-cam", "v4l2:///dev/v4l/by-id/usb-cam"),
        {},
    ),
    "rtsp://me:secret@cam:8554/a?channel=1&x=2#transport=udp": (
        *("rtsp", "rtsp://me:secret@cam:8554/a?channel=1&x=2", "rtsp://cam:8554/a?channel=1&x=2"),
        {"transport": "udp"},
    ),
    "http://me:secret@cam/video.cgi?token=abc": (
        *("http", "http://me:secret@cam/video.cgi?token=abc", "http://cam/video.cgi?token=***"),
        {},
    ),
    "https://cam:8443/stream.mjpg": (*("http", *["https://cam:8443/stream.mjpg"] * 2), {}),
    "gst:videotestsrc is-live=true ! video/x-raw,width=8": (
        *(
            "gst",
            "videotestsrc is-live=true ! video/x-raw,width=8",
            "gst:videotestsrc is-live=true",
        ),
        {},
    ),
    "gst:rtspsrc location=rtsp://me:secret@cam/x user-pw=secret ! decodebin": (
        *(
            "gst",
            "rtspsrc location=rtsp://me:secret@cam/x user-pw=secret ! decodebin",
            "gst:rtspsrc location=rtsp://cam/x user-pw=***",
        ),
        {},
    ),
    "test://": ("test", "", "test://", {}),
    "test://#rate=15&count=3": ("test", "", "test://", {"rate": "15", "count": "3"}),
}


@pytest.mark.parametrize(("text", "expected"), ADDRESSES.items(), ids=ADDRESSES)
def test_reads_an_address(text, expected):
    address = parse_address(text)
    assert (address.kind, address.target, address.name, dict(address.options)) == expected
    assert address.is_live is ("count" not in address.options)


def test_reads_paths_whatever_their_names(tmp_path):
    video = tmp_path / "a#b=c.MP4"
    video.touch()
    address = parse_address(str(video))
    assert (address.kind, address.name, address.is_live) == ("video", str(video), False)
    assert parse_address(f"file://{video}").target == str(video)
    assert parse_address(str(tmp_path)).kind == "folder"


WRONG = {
    "csi://left": "got camera 'left', expected a number: csi://0",
    "csi://0?width=9&height=8": "options stand behind a #. Write csi://0#width=9,height=8",
    "csi://0#format=x": "got option 'format', expected of csi: width, height, rate",
    "test://#rate=0": "got 'rate=0', expected rate=N, at least 1",
    "test://#rate=fast": "got 'rate=fast', expected rate=N",
    "rtsp://a/b#transport=pigeon": "got 'transport=pigeon', expected transport=tcp or udp",
    "0#format=MJPG!": "got 'format=MJPG!', expected format=mjpeg or yuyv422",
    "v4l2://video0": "got 'video0', expected v4l2:///dev/video0",
    "gst:": "got no pipeline",
    "rtsp://me:s#secret@cam/x": "source rtsp://cam/x: got no host and port",
    "rtsp://me:5#secret@cam/x": "In a password # is written %23",
    "rtsp://me:secret/@cam/x": "source rtsp://cam/x: got no host and port",
    "rtsp://cam:port/x": "got no host and port",
    "ftp://me:secret@cam/x": "source ftp://cam/x: got scheme 'ftp', expected a path or one of csi,",
    "nowhere.mp4": "source nowhere.mp4 does not exist",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=WRONG)
def test_refuses_what_is_no_address(text, message):
    with pytest.raises(SpecError) as caught:
        parse_address(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_refuses_a_file_that_is_no_video(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SpecError, match=r"notes.txt is no video by its name"):
        parse_address(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://user:p@ss@host/x", "rtsp://host/x"),
        ("rtsp://host/x", "rtsp://host/x"),
        ("rtsp://[::1", "rtsp://[::1"),
        ("rtsp://me:secret@[::1/x", "rtsp://[::1/x"),
        ("rtsp://me:se/cr@et@host:1/x", "rtsp://host:1/x"),
        (
            "rtsp://host/x?user=me&password=se%2Fcret&channel=1",
            "rtsp://host/x?user=***&password=***&channel=1",
        ),
        ("rtsp://host/user=me_password=secret_channel=1.sdp", "rtsp://host/user=***"),
    ],
)
def test_hides_passwords(url, expected):
    assert hide_password(url) == expected


def test_tells_ffmpeg_in_its_own_words():
    address = parse_address("0#width=1280,height=720,rate=60,format=mjpeg")
    assert stream_options(address) == {
        "video_size": "1280x720",
        "framerate": "60",
        "input_format": "mjpeg",
    }
    assert stream_options(parse_address("0")) == {}
    assert stream_options(parse_address("rtsp://a/b"))["rtsp_transport"] == "tcp"


@pytest.mark.parametrize(
    ("text", "is_live"), [("test://", True), ("test://#count=3", False), ("csi://0", True)]
)
def test_a_source_that_goes_on_without_us_is_live(text, is_live):
    assert source_maker(text).is_live is is_live
