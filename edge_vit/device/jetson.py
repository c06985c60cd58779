"""A Jetson's board, its release and its power mode.

The names are those of NVIDIA's device trees and of ``/etc/nv_tegra_release``.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from edge_vit.device.trees import first_text, read_text

CAPABILITIES = {
    "tegra210": "5.3",
    "tegra186": "6.2",
    "tegra194": "7.2",
    "tegra234": "8.7",
    "tegra264": "11.0",
}
"""CUDA compute capability by system on a chip."""

_JETPACKS = {
    "36.2": "6.0",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
    "39.2.2": "7.2.2",
}
_RELEASE = re.compile(r"R(\d+)\b.*?REVISION:\s*([\d.]*\d)")
_MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_MODE = re.compile(r"pmode:(\d+)")


@dataclass(frozen=True)
class PowerMode:
    """One of the modes that ``nvpmodel`` knows."""

    id: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else f"mode {self.id}"


def read_board(root: Path) -> tuple[str, str, str]:
    """Return model, module and system on a chip of the board; all "" without a device tree."""
    trees = [root / "proc/device-tree", root / "sys/firmware/devicetree/base"]
    compatible = first_text(tree / "compatible" for tree in trees)
    names = [name.partition(",")[2] for name in re.split(r"[\0\n]", compatible)]
    modules = [part for name in names for part in name.split("+") if re.match(r"p\d{4}-", part)]
    soc = next((name for name in names if re.fullmatch(r"tegra\d+", name)), "")
    return first_text(tree / "model" for tree in trees), modules[-1] if modules else "", soc


def read_l4t(root: Path) -> str:
    """Return the release of Jetson Linux, such as ``36.4.3``; "" where there is none."""
    found = _RELEASE.search(read_text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else ""


def read_jetpack(root: Path) -> str:
    """Return the JetPack, by its installed package, else by the release; "" where not known."""
    status = b""
    with contextlib.suppress(OSError):
        status = (root / "var/lib/dpkg/status").read_bytes()
    entry = status.partition(b"\nPackage: nvidia-jetpack\n")[2].partition(b"\n\n")[0]
    found = re.search(rb"^Version: ([\d.]+)", entry, re.MULTILINE)
    if found and b"Status: install ok installed" in entry:
        return found[1].decode()
    return jetpack_of(read_l4t(root))


def jetpack_of(l4t: str) -> str:
    """Return the JetPack that came with release `l4t`; "" where that is not known."""
    return _JETPACKS.get(l4t, "") or _JETPACKS.get(l4t.removesuffix(".0"), "")


def read_power_modes(root: Path) -> tuple[PowerMode, ...]:
    """Return every power mode that this board has."""
    text = read_text(root / "etc/nvpmodel.conf")
    return tuple(PowerMode(int(number), name) for number, name in _MODEL.findall(text))


def read_power_mode(root: Path) -> PowerMode | None:
    """Return the power mode that is set; None where the machine has none, or does not tell."""
    found = _MODE.search(read_text(root / "var/lib/nvpmodel/status"))
    if not found:
        return None
    names = {mode.id: mode.name for mode in read_power_modes(root)}
    return PowerMode(int(found[1]), names.get(int(found[1]), ""))
