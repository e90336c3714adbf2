"""Extras: a missing third-party module is an error that says what to install."""

import importlib.abc
import sys
from typing import get_args

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import Extra, extra, require


@pytest.fixture
def hide(monkeypatch):
    """Make modules look as if they were not installed."""

    hidden = set()

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in hidden:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def hide(*names):
        hidden.update(names)
        for loaded in [*sys.modules]:
            if loaded.partition(".")[0] in hidden:
                monkeypatch.delitem(sys.modules, loaded)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    return hide


def test_a_module_that_is_installed_is_imported():
    assert require("bench", "json.decoder") is sys.modules["json.decoder"]


@pytest.mark.parametrize("name", get_args(Extra))
def test_a_missing_module_names_itself_and_its_extra(name):
    with pytest.raises(
        ConfigError, match=rf"absent is not installed; .* pip install .*unified-reward\[{name}\]'"
    ):
        require(name, "absent.inner")


def test_a_hidden_module_is_missing_wherever_the_block_imports_it(hide):
    hide("krippendorff")
    with pytest.raises(ConfigError, match="krippendorff is not installed"), extra("bench"):
        import krippendorff.krippendorff  # noqa: F401


def test_a_mistake_of_our_own_stays_a_mistake():
    with pytest.raises(ModuleNotFoundError), extra("local"):
        import unified_reward.absent  # noqa: F401  # pyright: ignore[reportMissingImports]
