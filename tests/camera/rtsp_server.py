"""A real RTSP server on the loopback, run by the system's Python: prints its port, then serves."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay pt=96",
    "mjpeg": "jpegenc ! rtpjpegpay pt=26",
}


def main() -> None:
    codec, port = sys.argv[1], sys.argv[2]
    Gst.init(None)
    if not all(map(Gst.ElementFactory.find, ("x264enc", "rtph264pay", "jpegenc", "rtpjpegpay"))):
        sys.exit("plugins are missing")  # without a port: the tests are skipped
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,"
        f"framerate=30/1 ! {ENCODERS[codec]} name=pay0 )"
    )
    factory.set_shared(True)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
