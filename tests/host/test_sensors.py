import pytest

from celosia.host.sensors import PowerMeter, power_w, temperatures_c


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_nothing_is_nothing(tmp_path):
    assert power_w(tmp_path) is None and temperatures_c(tmp_path) == {}
    with PowerMeter(tmp_path) as power:
        pass
    assert power.joules is None and power.mean_w is None


def test_hwmon_is_found_by_name(tmp_path):
    write(tmp_path, {"sys/class/hwmon/hwmon0/name": "other\n", "sys/class/hwmon/hwmon0/power1_input": "1\n",
                     "sys/class/hwmon/hwmon7/name": "ina260_u14\n", "sys/class/hwmon/hwmon7/power1_input": "3810000\n",
                     "sys/class/hwmon/hwmon8/name": "ams\n", "sys/class/hwmon/hwmon8/temp1_input": "40250\n"})
    assert power_w(tmp_path) == 3.81 and temperatures_c(tmp_path) == {"temp1": 40.25}


def test_iio(tmp_path):
    device = "sys/bus/iio/devices/iio:device"
    write(tmp_path, {f"{device}1/name": "ina260-u14\n", f"{device}1/in_power2_raw": "381\n", f"{device}1/in_power2_scale": "10\n",
                     f"{device}0/name": "ams\n", f"{device}0/in_temp0_ps_temp_raw": "30000\n",
                     f"{device}0/in_temp0_ps_temp_offset": "-10000\n", f"{device}0/in_temp0_ps_temp_scale": "2.0\n"})
    assert power_w(tmp_path) == pytest.approx(3.81)
    assert temperatures_c(tmp_path) == {"temp0_ps_temp": 40.0}


@pytest.mark.parametrize("text", ["", "garbage\n"])
def test_unreadable_is_not_available(tmp_path, text):
    write(tmp_path, {"sys/class/hwmon/hwmon7/name": "ina260\n", "sys/class/hwmon/hwmon7/power1_input": text})
    assert power_w(tmp_path) is None


def test_energy_is_power_over_time(tmp_path, monkeypatch):
    """2 W at one second, 6 W at three: 8 J, 4 W on average."""
    samples = iter([(1.0, 2.0), (3.0, 6.0)])
    monkeypatch.setattr(PowerMeter, "_sample", lambda self: next(samples))
    monkeypatch.setattr("celosia.host.sensors._PERIOD_S", 3600.0)
    with PowerMeter(tmp_path) as power:
        pass
    assert power.joules == 8.0 and power.mean_w == 4.0
