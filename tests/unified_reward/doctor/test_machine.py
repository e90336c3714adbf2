"""Processors and memory, from files of a kernel written here."""

from pathlib import Path

from unified_reward.doctor import machine


KIB = 1024


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_the_tightest_control_group_limits_memory_and_processors(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\nHugePages_Total: 0\n")
    put(tmp_path, "proc/cpuinfo", "processor: 0\nmodel name\t: A processor\n")
    put(tmp_path, "proc/self/cgroup", "0::/jobs/mine\n")
    group = "sys/fs/cgroup/jobs/mine/"
    put(tmp_path, group + "memory.max", "max\n")
    put(tmp_path, group + "cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/jobs/memory.max", f"{500 * KIB}\n")
    put(tmp_path, "sys/fs/cgroup/jobs/memory.current", f"{100 * KIB}\n")
    put(tmp_path, "sys/fs/cgroup/jobs/cpu.max", "50000 100000\n")
    # 500 kB of the limit, of which 100 are used, leave less than the 900 of the machine.
    assert machine.memory(tmp_path) == machine.Memory(1000 * KIB, 400 * KIB, 500 * KIB)
    cpu = machine.cpu(tmp_path)
    assert (cpu.name, cpu.allowed) == ("A processor", 0.5)


def test_control_groups_of_the_first_version(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 300 kB\n")
    put(tmp_path, "proc/self/cgroup", "4:memory:/m\n3:cpu,cpuacct:/c\n1:name=systemd:/\n")
    put(tmp_path, "sys/fs/cgroup/memory/m/memory.limit_in_bytes", f"{800 * KIB}")
    put(tmp_path, "sys/fs/cgroup/memory/m/memory.usage_in_bytes", f"{200 * KIB}")
    put(tmp_path, "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "25000")
    put(tmp_path, "sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000")
    # 600 kB are left of the limit, but the machine has only 300.
    assert machine.memory(tmp_path) == machine.Memory(1000 * KIB, 300 * KIB, 800 * KIB)
    assert machine.cpu(tmp_path).allowed == 0.25


def test_what_a_kernel_does_not_say_is_unknown_not_zero(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sysconf_names")
    assert machine.memory(tmp_path) == machine.Memory(None, None, None)


def test_a_limit_above_the_memory_is_none(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal: 10 kB\nMemAvailable: 9 kB\n")
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", str(2**63))
    assert machine.memory(tmp_path) == machine.Memory(10 * KIB, 9 * KIB, None)


def test_the_space_of_a_folder_that_is_not_there_is_that_above_it(tmp_path):
    disk = machine.disk("cache", tmp_path / "none" / "hub")
    assert disk.folder == str(tmp_path / "none" / "hub")
    assert disk.total == machine.disk("cache", tmp_path).total
