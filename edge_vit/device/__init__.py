"""Facts of this machine, its power, temperatures and clocks; nothing is ever changed.

They are read from files that the kernel and the system keep, and from NVML on a desktop GPU.
"""

from edge_vit.device.energy import EnergyMeter as EnergyMeter
from edge_vit.device.energy import EnergyReport as EnergyReport
from edge_vit.device.facts import DeviceFacts as DeviceFacts
from edge_vit.device.facts import read_device as read_device
from edge_vit.device.telemetry import Telemetry as Telemetry
from edge_vit.device.telemetry import TelemetryReader as TelemetryReader
from edge_vit.device.telemetry import open_telemetry as open_telemetry
