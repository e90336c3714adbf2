"""Groups of commands: a command's module is imported when the command is invoked, not before.

Other distributions add commands by entry points of the group ``unified_reward.commands``; the name
``data.make`` adds ``make`` to the group ``data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from unified_reward.core.extensions import extensions, load_extension, missing_hint


Commands = Mapping[str, tuple[str, str]]
"""Import path (``module:object``) and help line of each command, by its name."""


HELP = {"help_option_names": ["--help", "-h"]}


def make_app(name: str, commands: Commands, *, help: str) -> typer.Typer:  # noqa: A002
    """Create an application whose commands are imported when they are invoked.

    Args:
        name: Name of the group inside the top level; empty for the top level.
        commands: Commands of this distribution; an object is a function or an application.
        help: Help line of the group.
    """
    return typer.Typer(
        cls=type("Group", (LazyGroup,), {"group": name, "lazy": commands}),
        help=help,
        no_args_is_help=True,
        add_completion=not name,
        pretty_exceptions_enable=False,
        context_settings=HELP,
    )


class LazyGroup(TyperGroup):
    """Group that lists its commands without importing them; see `make_app`."""

    group: ClassVar[str]
    lazy: ClassVar[Commands]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        prefix = f"{self.group}." if self.group else ""
        self._paths = {name: path for name, (path, _) in self.lazy.items()}
        lines = {name: line for name, (_, line) in self.lazy.items()}
        for full_name, point in extensions("commands").items():
            name = full_name.removeprefix(prefix)
            if full_name.startswith(prefix) and "." not in name and name not in lines:
                self._paths[name] = full_name
                lines[name] = f"Added by {point.dist.name if point.dist else point.value}."
        for name, line in lines.items():
            self.commands[name] = TyperCommand(name, help=line)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is invoked; name the laboratory if the command is part of it."""
        hint = missing_hint(f"{self.group} {args[0]}".strip())
        if hint and args[0] not in self.commands:
            ctx.fail(f"No such command {args[0]!r}{hint}")
        name, command, rest = super().resolve_command(ctx, args)
        if name in self._paths:
            command = _click_command(name, self._load(self._paths[name]))
        return name, command, rest

    def _load(self, path: str) -> Any:
        module, _, attribute = path.partition(":")
        if not attribute:
            return load_extension("commands", path)
        return getattr(import_module(module), attribute)


def _click_command(name: str, target: typer.Typer | Callable[..., None]) -> Any:
    """Convert a function to a command, an application to a group."""
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
    else:
        app = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, context_settings=HELP
        )
        app.command()(target)
        command = typer.main.get_command(app)
    command.name = name
    return command
