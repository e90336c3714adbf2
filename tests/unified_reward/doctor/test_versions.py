"""Packages and extras by metadata that is made up here."""

from importlib.metadata import PackageNotFoundError

import pytest

from unified_reward.core.install import install_command
from unified_reward.doctor import versions


DECLARED = [
    "rich>=13",
    'tomli>=2; python_version < "3.0"',
    'torch>=2.6; extra == "local"',
    'transformers<6,>=5.24; extra == "local"',
    'trl<2,>=1.16; extra == "train"',
    'unified-reward[local]; extra == "train"',
    'matplotlib>=3.9; extra == "report"',
    'unified-reward[local,report]; extra == "all"',
]


@pytest.fixture
def machine(monkeypatch):
    """Set the installed versions by name."""

    def install(**installed):
        def version(name):
            try:
                return installed[name.replace("-", "_")]
            except KeyError:
                raise PackageNotFoundError(name) from None

        monkeypatch.setattr(versions, "version", version)

    monkeypatch.setattr(versions, "requires", lambda _: DECLARED)
    return install


def test_an_extra_of_extras_needs_the_packages_of_all_of_them(machine):
    machine()
    names = {
        extra: [each.name for each in group] for extra, group in versions.requirements().items()
    }
    assert names == {
        "": ["rich"],
        "local": ["torch", "transformers"],
        "train": ["trl", "torch", "transformers"],
        "report": ["matplotlib"],
        "all": ["torch", "transformers", "matplotlib"],
    }


def state(name):
    extras = versions.extras(versions.requirements())
    return next(extra for extra in extras if extra.name == name)


def test_an_extra_is_installed_incomplete_or_absent_and_says_the_command(machine):
    machine(rich="14", torch="2.9", transformers="5.24.0")
    assert state("local") == versions.Extra("local", "installed", (), (), "")
    # What [local] brings does not make [train] half installed.
    assert state("train") == versions.Extra(
        "train", "absent", ("trl",), (), install_command("train")
    )
    machine(rich="14", torch="2.9")
    assert state("local") == versions.Extra(
        "local", "incomplete", ("transformers",), (), install_command("local")
    )


@pytest.mark.parametrize("version", ["5.23.1", "6.0.0"])
def test_a_version_out_of_range_is_said_and_upgraded(machine, version):
    machine(rich="14", torch="2.9", transformers=version)
    extra = state("local")
    assert (extra.status, extra.missing) == ("incomplete", ())
    assert extra.wrong == (f"transformers {version} (<6,>=5.24)",)
    assert extra.install == install_command("local", upgrade=True)
    known = {package.name: package for package in versions.packages(versions.requirements())}
    assert known["transformers"].in_range is False
    assert known["matplotlib"].version is known["matplotlib"].in_range is None


def test_a_build_of_a_source_tree_is_in_range(machine):
    machine(rich="14", torch="2.6.0.dev20260101+cu124", transformers="5.24.0.dev0")
    package = versions.packages(versions.requirements())[1]
    assert (package.name, package.in_range) == ("torch", False), "2.6.0.dev is before 2.6"
    machine(rich="14", torch="2.7.0.dev20260101+cu124", transformers="5.24.0")
    assert state("local").status == "installed"


def test_the_extras_are_those_of_this_distribution():
    assert {"local", "train", "serve", "ray", "all"} <= versions.requirements().keys()
