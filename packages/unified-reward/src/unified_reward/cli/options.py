"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import typer

from unified_reward.backends.attention import Attention
from unified_reward.cli import completions
from unified_reward.cli.progress import waiting
from unified_reward.core.errors import ConfigError
from unified_reward.core.paths import is_folder
from unified_reward.io.text import parse_json


if TYPE_CHECKING:
    from unified_reward.core.base_judge import BaseJudge
    from unified_reward.core.samples import Example
    from unified_reward.judges.registry import JudgeOptions

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, auto, …; default the fastest there is.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, …; default float32 on a CPU, else bfloat16.",
        autocompletion=completions.dtypes,
    ),
]
PolicyOption = Annotated[
    str,
    typer.Option(
        help="A VLM or a diffusers pipeline: folder or hub id.",
        autocompletion=completions.policies,
    ),
]


@dataclass(frozen=True)
class JudgeArguments:
    """Options of every command that opens a judge."""

    judge: Annotated[
        str,
        typer.Option(
            help="A folder, a hub id, scripted:KIND, table:FILE, NAME:WEIGHTS of a published "
            "scorer, checklist-image:JUDGE, a URL, or the name of an installed judge.",
            autocompletion=completions.judges,
        ),
    ] = ""
    model: Annotated[
        str | None, typer.Option(help="Model of the server; default its only one.")
    ] = None
    family: Annotated[
        str | None,
        typer.Option(
            help="Prompt family; default the one of the checkpoint.",
            autocompletion=completions.families,
        ),
    ] = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Requests in one forward pass; default 16.")
    ] = None
    allow_reworded: Annotated[
        bool,
        typer.Option("--allow-reworded", help="Use this project's wording for a published judge."),
    ] = False
    quantize: Annotated[
        Literal["8bit", "4bit"] | None,
        typer.Option(help="Weights in 8 or 4 bits; needs bitsandbytes."),
    ] = None
    attention: Annotated[
        Attention | None,
        typer.Option(help="Attention of a local checkpoint; default sdpa, torch's own."),
    ] = None
    extra_body: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Fields of each request to a server; null leaves a field out.",
        ),
    ] = None
    extra_header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="Header of a server; may be repeated."),
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Scale larger images down, for a server.")
    ] = None
    image_format: Annotated[
        Literal["png", "jpeg", "webp"],
        typer.Option(help="Encoding of images for a server; png is lossless."),
    ] = "png"
    image_quality: Annotated[
        int, typer.Option(min=1, max=100, help="Quality of jpeg and webp.")
    ] = 95

    def options(self) -> JudgeOptions:
        """Everything but the reference, as `judges.registry` takes it."""
        from unified_reward.judges.registry import JudgeOptions

        return JudgeOptions(
            model=self.model,
            family=self.family,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            allow_reworded=self.allow_reworded,
            quantize=self.quantize,
            attention=self.attention,
            extra_body=self._body(),
            extra_headers=dict(map(_header, self.extra_header or ())) or None,
            max_pixels=self.max_pixels,
            image_format=self.image_format,
            image_quality=self.image_quality,
        )

    def _body(self) -> dict[str, Any] | None:
        if self.extra_body is None:
            return None
        try:
            body = parse_json(self.extra_body)
        except ValueError as error:
            raise ConfigError(f"--extra-body: {error}") from error
        if not isinstance(body, dict):
            raise ConfigError('--extra-body is a JSON object, such as {"seed": null}')
        return cast("dict[str, Any]", body)

    def takes_answers_alone(self) -> bool:
        """True for a scorer that judges answers to a question of text alone; loads no weights."""
        from unified_reward.judges.registry import kind_of
        from unified_reward.scorers import scorer_names, system

        name = self.judge.partition(":")[0]
        is_scorer = name in scorer_names() and kind_of(self.judge) == "scorer"
        return is_scorer and system(name).answers_alone

    def open(
        self,
        *,
        truth: Iterable[Example] | None = None,
        opens_media: bool = True,
        is_alone: bool = True,
    ) -> BaseJudge:
        """Open the judge; see `judges.registry.open_reference`.

        Among several judges (``is_alone=False``) options that do not apply to it are passed over.
        """
        from unified_reward.judges.registry import applicable, open_reference

        options = self.options() if is_alone else applicable(self.judge, self.options())
        with waiting(f"loading {self.judge}"):
            judge = open_reference(self.judge, options, truth=truth, opens_media=opens_media)
        for reason in judge.describe().get("model", {}).get("slower", ()):
            typer.echo(f"{judge.name}: {reason}", err=True)
        return judge


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        # The message omits the text: it may be a key.
        raise ConfigError("--extra-header is NAME:VALUE; one has no colon")
    return name.strip(), value.strip()


def named(texts: Iterable[str]) -> dict[str, str]:
    """References by name, of ``NAME=REFERENCE`` or a reference, which is then its own name.

    Raises:
        ConfigError: There is none, two have the same name, or a name holds other signs.
    """
    from unified_reward.judges.registry import available_judges

    references: dict[str, str] = {}
    for text in texts:
        given = text.partition("=")[0]
        if given != text and not is_folder(text) and re.fullmatch(r"[^/:]*[^/:\w.-][^/:]*", given):
            raise ConfigError(f"a name has letters, digits and . _ - alone, unlike {given!r}")
        match = None if is_folder(text) else _NAMED.fullmatch(text)
        name, reference = match.groups() if match else (text, text)
        if name in references:
            raise ConfigError(f"two judges are called {name}; name one of them: OTHER={reference}")
        references[name] = reference
    if not references:
        raise ConfigError(f"no judge is named, and there is no default:\n{available_judges()}")
    return references


def opens_judge(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the argument ``judge`` of a command by one option per field of `JudgeArguments`.

    An argument ``judges`` takes several by name: ``--judge`` may be repeated, and all have the same
    other options.
    """
    hints = get_type_hints(JudgeArguments, include_extras=True)
    several = "judges" in inspect.signature(command).parameters
    if several:
        hints["judge"] = JudgesOption
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if several and field.name == "judge" else field.default,
            annotation=hints[field.name],
        )
        for field in fields(JudgeArguments)
    ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in options}
        if not several:
            command(judge=JudgeArguments(**given), **values)
            return
        references = named(given["judge"] or ())
        judges = {
            name: replace(JudgeArguments(**given), judge=reference)
            for name, reference in references.items()
        }
        command(judges=judges, **values)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        is_judge = parameter.name in ("judge", "judges")
        parameters += options if is_judge else [parameter]
    wrapper.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


JudgesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]REFERENCE",
        help="Judge or scorer; may be repeated. Its name is its reference.",
        autocompletion=completions.judges,
    ),
]
OrdersOption = Annotated[
    int, typer.Option(min=1, max=2, help="Orders in which a comparison is asked.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON row per line and nothing else.")
]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Ask the rows again that failed in an earlier run.")
]
ImageOption = Annotated[str | None, typer.Option(help="Image that the answers are about.")]
VideoOption = Annotated[str | None, typer.Option(help="Video that the answers are about.")]
SourceOption = Annotated[
    str | None, typer.Option(help="Image before the edit, if the files are edits of it.")
]
AnswerOption = Annotated[list[str] | None, typer.Option(help="Answer to judge; may be repeated.")]
PromptOption = Annotated[
    str | None,
    typer.Option(help="Prompt of the files, or the question; default that of a folder's metadata."),
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="Workers of engine ray, each with its own judge.")
]


def orders_of(value: int) -> Literal[1, 2]:
    """Number of orders with the type that a judge takes."""
    return 1 if value == 1 else 2
