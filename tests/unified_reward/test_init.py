"""Importing the package is light, and what it offers is listed."""

import subprocess
import sys
from typing import get_args

import pytest

import unified_reward
from unified_reward.core import verdicts
from unified_reward.core.errors import ConfigError


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, unified_reward\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_all_is_sorted_and_every_name_in_it_is_there():
    names = unified_reward.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(unified_reward, name) is not None
        assert name in dir(unified_reward)


def test_all_holds_every_kind_of_verdict():
    assert {kind.__name__ for kind in get_args(verdicts.Verdict)} < set(unified_reward.__all__)


def test_a_name_whose_extra_is_missing_says_which(monkeypatch):
    def without_trl(name):
        raise ModuleNotFoundError("No module named 'trl'", name="trl.trainer")

    monkeypatch.setattr(unified_reward, "import_module", without_trl)
    with pytest.raises(ConfigError, match=r"trl is not installed; this needs the extra \[train\]"):
        unified_reward.train_judge  # noqa: B018


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        unified_reward.nonsense  # noqa: B018
