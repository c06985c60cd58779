from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_vit.camera.systemd import systemd_unit

COMMAND = ["/bin/true", "camera", "my cats.edgevit", "--source", "rtsp://a/b?x=%41$HOME", 'a"b']


def unit() -> str:
    return systemd_unit(COMMAND, title="my cats", folder=Path("/srv/c%d"), user="jetson")


def test_restarts_after_failures_and_not_after_wrong_usage():
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str
    parser.read_string(unit())
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["User"] == "jetson"
    assert service["EnvironmentFile"] == "-/etc/edgevit/edgevit-my-cats.env"
    assert "PrivateTmp" not in service  # the socket of nvargus-daemon is in /tmp
    assert service["WorkingDirectory"] == "/srv/c%%d"
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"
    assert "/etc/systemd/system/edgevit-my-cats.service" in unit()


def test_arguments_reach_the_command_as_they_were_typed():
    (line,) = [line for line in unit().splitlines() if line.startswith("ExecStart=")]
    assert line == (
        'ExecStart=/bin/true camera "my cats.edgevit" --source rtsp://a/b?x=%%41$$HOME "a\\"b"'
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_nothing_wrong(tmp_path):
    path = tmp_path / "edgevit-my-cats.service"
    path.write_text(unit().replace("/srv/c%%d", "/").replace("User=jetson", "User=root"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True
    )
    assert path.name not in result.stderr
