"""Devices and dtypes by name: the default rule, and names that are refused."""

import pytest
import torch

from unified_reward.backends.devices import best_device, resolve_device, resolve_dtype
from unified_reward.core.errors import ConfigError


def test_a_device_that_there_is_stays_as_given_and_the_default_is_the_best():
    assert [resolve_device(name) for name in ("cpu", "auto")] == ["cpu", "auto"]
    assert resolve_device(None) == best_device()


@pytest.mark.parametrize("name", ["", "gpu", "cuda:first", "cpu:0:0"])
def test_a_name_of_no_device_is_refused(name):
    with pytest.raises(ConfigError, match=f"device is cpu, cuda, .*not '{name}'"):
        resolve_device(name)


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="device 'cuda:2' is not available; 'cuda' is"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps", "meta"):
        with pytest.raises(ConfigError, match=f"device '{name}' is not available; 'cpu' is"):
            resolve_device(name)


def test_a_name_of_no_floating_point_dtype_is_refused():
    assert resolve_dtype(None, "cpu") is torch.float32
    for name in ("int8", "float31"):
        with pytest.raises(ConfigError, match=f"not '{name}'"):
            resolve_dtype(name, "cpu")
