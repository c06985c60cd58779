"""Instruction sets of this processor, as Linux reports them; unknown on other systems."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from edge_vit.formats.int8 import VNNI

INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm"),
)
"""Those that decide how fast INT8 is against float32, as Linux names them."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPU_INFO = Path("/proc/cpuinfo")


def read_cpu_info() -> dict[str, str]:
    """Return the facts of the first core, by Linux's names; empty where it does not tell."""
    try:
        text = _CPU_INFO.read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def instruction_sets() -> tuple[str, ...]:
    """Return those of `INSTRUCTION_SETS` that the processor has."""
    facts = read_cpu_info()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def capabilities() -> frozenset[str]:
    """Return those capabilities that `edge_vit.formats.Variant.needs` names."""
    return frozenset({VNNI} if has_vnni() else ())


@functools.cache
def has_vnni() -> bool:
    """Return whether an x86 processor adds products of uint8 and int8 in 32 bits.

    Without it ONNX Runtime's fastest kernels add pairs of them in 16 bits, which saturates.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and bool(
        _VNNI.intersection(instruction_sets())
    )
