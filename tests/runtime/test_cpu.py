from __future__ import annotations

import platform

import pytest

from edge_vit.runtime import cpu


@pytest.fixture(autouse=True)
def fresh_answer():
    cpu.has_vnni.cache_clear()
    yield
    cpu.has_vnni.cache_clear()


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "flags\t: fpu avx2 avx512_vnni\n\nflags\t: fpu\n", True),
        ("AMD64", "flags\t: avx2 avx_vnni\n", True),
        ("x86_64", "flags\t: fpu avx2 avx512f\n", False),
        ("x86_64", "", False),
        ("aarch64", "Features\t: fp asimddp i8mm avx512_vnni\n", False),
    ],
    ids=["avx-512", "avx", "without", "unknown", "arm"],
)
def test_vnni_is_what_the_first_core_of_an_x86_says(tmp_path, monkeypatch, machine, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cpu.has_vnni() is expected


def test_nothing_is_known_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "none")
    assert cpu.read_cpu_info() == {}
    assert cpu.instruction_sets() == ()
    assert not cpu.has_vnni()
