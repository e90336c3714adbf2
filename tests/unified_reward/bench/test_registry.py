"""Every benchmark is found by its name; those of other distributions by their entry points."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest

from unified_reward.bench import registry
from unified_reward.bench.benchmark import Benchmark
from unified_reward.bench.registry import benchmark_names, find_benchmark
from unified_reward.core.errors import ConfigError


def test_every_built_in_name_finds_the_benchmark_of_its_module():
    for module, names in registry._MODULES.items():
        protocol = import_module(f"unified_reward.bench.protocols.{module}")
        assert tuple(benchmark.name for benchmark in protocol.BENCHMARKS) == names
        assert [find_benchmark(name).name for name in names] == [*names]
    assert len({*benchmark_names()}) == len(benchmark_names())


def test_benchmarks_of_the_laboratory_come_by_entry_points():
    for name in ("microworld", "microworld_editing"):
        assert name in benchmark_names()
        assert find_benchmark(name).name == name


def test_names_are_known_without_importing_a_protocol():
    code = (
        "import sys; from unified_reward.bench.registry import benchmark_names;"
        "assert 'fetv' in benchmark_names();"
        "bad = [m for m in sys.modules if m.startswith(('numpy', 'scipy', 'unified_reward_lab'))];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def nothing_installed(monkeypatch):
    """No distribution adds a benchmark."""
    monkeypatch.setattr("unified_reward.core.extensions.entry_points", lambda **_: ())


def test_an_unknown_name_lists_what_there_is_and_what_to_install(nothing_installed):
    with pytest.raises(ConfigError, match=r"no benchmark 'x'; there are fetv, .*vl_rewardbench"):
        find_benchmark("x")
    with pytest.raises(ConfigError, match="microworld comes with the laboratory: pip install"):
        find_benchmark("microworld")


def test_an_entry_point_that_is_no_benchmark_is_refused(monkeypatch):
    point = EntryPoint("mine", "json:dumps", "unified_reward.benchmarks")
    monkeypatch.setattr("unified_reward.core.extensions.entry_points", lambda **_: (point,))
    assert benchmark_names()[-1] == "mine"
    with pytest.raises(ConfigError, match="benchmark 'mine' names a function, not a Benchmark"):
        find_benchmark("mine")
    assert isinstance(find_benchmark("fetv"), Benchmark)
