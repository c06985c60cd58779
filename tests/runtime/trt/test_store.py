"""Where engines and their digests are kept: folders that cannot be written, full disks."""

from __future__ import annotations

import pytest

from edge_vit.errors import ArtifactError
from edge_vit.runtime.trt import engines, store
from edge_vit.runtime.trt.engines import build_engine
from edge_vit.runtime.trt.identity import EngineOptions
from tests.runtime.trt.bundles import RTX

SM86 = EngineOptions(targets=("sm_86",))


def test_a_state_folder_that_cannot_be_written_is_seen_before_the_work(
    bundle, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match=r"Name a folder of yours: export XDG_STATE_HOME=DIR$"):
        build_engine(bundle, "int8", "rtx", SM86, builder=RTX)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(store.Path, "home", fail)
    with pytest.raises(ArtifactError, match="has no home folder"):
        store.state_folder()


def test_a_full_disk_is_seen_before_the_work(bundle, monkeypatch):
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(engines.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ArtifactError, match=r"1 MiB are left on the disk, and the engine wants"):
        build_engine(bundle, "int8", "rtx", SM86, builder=RTX)
