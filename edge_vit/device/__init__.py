"""What this machine is, and how it fares: facts, power, temperatures and clocks.

Everything is read from files that the kernel and the system keep, and from NVML where a GPU on the
desk has it. Nothing is ever changed.
"""

from edge_vit.device.energy import EnergyMeter as EnergyMeter
from edge_vit.device.energy import EnergyReport as EnergyReport
from edge_vit.device.facts import DeviceFacts as DeviceFacts
from edge_vit.device.facts import read_device as read_device
from edge_vit.device.telemetry import Telemetry as Telemetry
from edge_vit.device.telemetry import TelemetryReader as TelemetryReader
from edge_vit.device.telemetry import open_telemetry as open_telemetry
