import dataclasses
import threading

import pytest

from edge_vit.device import EnergyMeter, Telemetry
from edge_vit.device.energy import EnergyTally


def reading(at_s, power_w=10.0, *, gpu_c=50.0, slowed=(), events=0, mhz=900.0):
    return Telemetry(
        at_s, power_w, "VDD_IN" if power_w else "", {}, {"gpu": gpu_c}, {"gpu": mhz}, slowed, events
    )


def tally(*readings):
    first, *others = readings
    summed = EnergyTally(first)
    for later in others:
        summed.add(later)
    return summed.report()


def test_energy_is_power_over_time_by_the_trapezoid_rule():
    report = tally(reading(0, 10), reading(1, 20), reading(4, 0.5))
    assert report.joules == pytest.approx(15 + 3 * 10.25)
    assert report.mean_w == pytest.approx(report.joules / 4)
    assert (report.max_w, report.duration_s) == (20, 4)


def test_seconds_without_a_reading_count_as_not_measured():
    report = tally(reading(0), reading(1), reading(2, None), reading(3), reading(5))
    assert (report.joules, report.measured_s, report.duration_s) == (30, 3, 5)
    assert report.mean_w == 10


def test_without_power_there_are_no_joules():
    report = tally(reading(0, None), reading(9, None))
    assert (report.joules, report.mean_w, report.max_w, report.power_source) == (None,) * 3 + ("",)
    assert report.duration_s == 9


def test_the_highest_temperature_is_kept():
    report = tally(reading(0, gpu_c=40), reading(1, gpu_c=71), reading(2, gpu_c=65))
    assert report.temperatures_max_c == {"gpu": 71}


def test_a_zone_that_wakes_up_later_counts_from_then():
    asleep = dataclasses.replace(reading(0), temperatures_c={})
    assert tally(asleep, reading(1, gpu_c=60)).temperatures_max_c == {"gpu": 60}


def test_throttling_for_a_moment_is_seen():
    report = tally(reading(0), reading(1, slowed=("heat",)), reading(2))
    assert (report.throttling, report.was_throttled) == (("heat",), True)


def test_events_between_the_readings_are_seen():
    report = tally(reading(0, events=27), reading(1, events=29))
    assert (report.num_throttle_events, report.was_throttled) == (2, True)
    assert not tally(reading(0, events=27), reading(1, events=27)).was_throttled


def test_a_block_is_sampled_while_it_runs():
    sampled = threading.Event()
    times = iter(range(1_000_000))

    def read():
        at_s = next(times)
        if at_s == 3:
            sampled.set()
        return reading(at_s, 5.0)

    with EnergyMeter(read, interval_s=0.001) as meter:
        assert sampled.wait(timeout=30)
    report = meter.report
    assert report.duration_s >= 4
    assert report.joules == pytest.approx(5.0 * report.duration_s)
    assert not [t for t in threading.enumerate() if t.name == "energy-meter"]


def test_a_block_that_fails_is_measured_too():
    times = iter(range(1_000_000))
    meter = EnergyMeter(lambda: reading(next(times)), interval_s=60)
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter.report.joules == 10


def test_a_meter_measures_one_block_after_the_other():
    times = iter(range(1_000_000))
    meter = EnergyMeter(lambda: reading(next(times)), interval_s=60)
    for _ in range(2):
        with meter:
            pass
        assert meter.report.duration_s == 1


def test_a_sensor_that_fails_costs_the_time_up_to_the_next_reading(caplog):
    enough, times = threading.Event(), iter(range(1_000_000))

    def read():
        at_s = next(times)
        if at_s == 6:
            enough.set()
        if at_s in (2, 3):
            raise OSError("the sensor is busy")
        return reading(at_s, 5.0)

    with EnergyMeter(read, interval_s=0.001) as meter:
        assert enough.wait(timeout=30)
    report = meter.report
    assert report.measured_s == report.duration_s - 3  # from reading 1 to reading 4
    assert report.joules == pytest.approx(5.0 * report.measured_s)
    assert caplog.messages == ["sensors cannot be read: OSError: the sensor is busy"]
