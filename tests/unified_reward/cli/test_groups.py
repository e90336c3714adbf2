"""Groups of commands: their help lines, when they are imported, what other distributions add."""

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest
import typer

import unified_reward
from unified_reward import cli as top
from unified_reward.cli import data, groups
from unified_reward.core import extensions
from unified_reward.core.install import LABORATORY, install_command


COMMANDS = {**top.COMMANDS, **data.COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_line_is_the_first_line_of_its_command(name):
    path, line = COMMANDS[name]
    module, _, attribute = path.partition(":")
    command = getattr(import_module(module), attribute)
    is_app = isinstance(command, typer.Typer)
    assert line == (command.info.help if is_app else inspect.getdoc(command).partition("\n")[0])


def test_help_imports_no_command():
    code = (
        "import sys\nfrom unified_reward.cli import app\ntry: app(['--help'])\n"
        "except SystemExit: print(sorted(m for m in sys.modules if m[:15] == 'unified_reward.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(
        [
            f"unified_reward.{name}"
            for name in (
                *("cli", "cli.groups", "core", "core.errors", "core.extensions"),
                *("core.install", "core.quiet"),
            )
        ]
    )


def test_the_version_is_printed(cli):
    assert cli("--version") == (0, f"{unified_reward.__version__}\n", "")


def test_without_arguments_help_is_shown(cli):
    for arguments in ([], ["data"]):
        code, out, err = cli(*arguments)
        assert code == 2
        assert "Commands" in out + err


@pytest.fixture
def added(monkeypatch):
    """Set the commands that other distributions add, as names and paths."""

    def add(**paths):
        points = {
            name.replace("__", "."): EntryPoint(name, path, "unified_reward.commands")
            for name, path in paths.items()
        }
        monkeypatch.setattr(groups, "extensions", lambda group: points)
        monkeypatch.setattr(extensions, "extensions", lambda group: points)

    return add


def greet(name: str) -> None:
    """Greet a name."""
    typer.echo(f"hello {name}")


many = typer.Typer()
many.command("greet")(greet)


def test_another_distribution_adds_a_command_and_a_group_inside_a_group(cli, added):
    added(
        hello="tests.unified_reward.cli.test_groups:greet",
        data__hello="tests.unified_reward.cli.test_groups:many",
    )
    assert "hello" in cli("--help")[1]
    assert cli("hello", "you")[:2] == (0, "hello you\n")
    assert cli("data", "hello", "greet", "you")[:2] == (0, "hello you\n")


def test_a_command_of_this_distribution_is_not_replaced(cli, added):
    added(run="tests.unified_reward.cli.test_groups:greet")
    code, out, _ = cli("run", "you")
    assert (code, out) == (2, "")


def test_a_command_that_cannot_be_imported_names_its_distribution(cli, added):
    added(hello="no_such_package:greet")
    code, _, err = cli("hello")
    assert code == 2
    assert "'hello' comes with no_such_package:greet, which fails to load" in err


@pytest.mark.parametrize("command", [("experiment", "gate"), ("data", "make", "microworld")])
def test_a_command_of_the_laboratory_says_what_to_install(cli, added, command):
    added()
    code, out, err = cli(*command)
    assert (code, out) == (2, "")
    assert f"comes with the laboratory: {install_command(of=LABORATORY)}" in " ".join(err.split())
