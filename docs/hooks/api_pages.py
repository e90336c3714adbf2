"""Reference of the Python names, grouped by what they are for.

A name is given as it is imported. `PAGES` says which names there are and on which page each has
its entry; mkdocstrings makes the entries from signatures and docstrings.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import NamedTuple


UR = "unified_reward"
CLIENT = "unified_reward_client"


class Names(NamedTuple):
    """Names of one module, under a heading of their own."""

    title: str
    module: str
    names: str
    """Separated by spaces."""
    text: str = ""
    """Sentences below the heading."""


class ApiPage(NamedTuple):
    """A page of the reference."""

    title: str
    text: str
    groups: tuple[Names, ...]


PAGES = {
    "judges": ApiPage(
        "Judges and verdicts",
        "`open_judge` opens a judge by its [reference](../judges.md); `score`, `compare` and "
        "`rank` ask it. Every answer is one of four verdicts.",
        (
            Names("Open and ask", UR, "open_judge Judge"),
            Names("", f"{UR}.core.base_judge", "Medium"),
            Names("Verdicts", UR, "Scored Preferred Unparsed Failed"),
            Names("", f"{UR}.core.verdicts", "Verdict Ranking Score Scale Winner"),
            Names(
                "Options as one value",
                f"{UR}.judges.registry",
                "open_reference JudgeOptions",
            ),
            Names(
                "Families of prompts",
                f"{UR}.prompts.template",
                "Family Template",
                "[Families and tasks](../families.md) shows how to add one.",
            ),
            Names("", f"{UR}.prompts", "family templates"),
            Names("", f"{UR}.prompts.parse", "Aspect"),
            Names(
                "Official wordings",
                f"{UR}.prompts.packs",
                "import_pack installed_wordings published_prompts Wording Prompt ImportReport "
                "PromptImport",
            ),
        ),
    ),
    "samples": ApiPage(
        "Samples, images and videos",
        "A `Sample` is a question to a judge; an `Example` is a row of data with what is known "
        "about it.",
        (
            Names("Samples", UR, "Task Sample Image Video"),
            Names("", f"{UR}.core.samples", "Candidate Form Layout FrameRule"),
            Names("Rows of data", UR, "Example Target"),
            Names("", f"{UR}.core.samples", "Pair PreferencePair"),
            Names("", f"{UR}.io.rows", "read_examples example_row"),
            Names("Votes of people", f"{UR}.io.vote_rows", "read_votes Vote"),
            Names("", f"{UR}.data.sources.votes", "trusted_raters"),
            Names(
                "Open images and videos",
                f"{UR}.media",
                "open_image sample_frames SampledFrames frame_indices frame_times select_frames "
                "image_or_video fit_pixels verify_image content_hash encode_lossless encode_png "
                "encode_webp encode_mp4 data_url browser_video describe Limits",
                "[Images and videos](../media.md) says which files are read, and how.",
            ),
        ),
    ),
    "pairs": ApiPage(
        "Pairs",
        "From prompts to candidates, and to a chosen and a rejected one: see "
        "[make pairs](../../howto/make-pairs.md) and [export pairs](../../howto/export-pairs.md).",
        (
            Names("Sample candidates", UR, "make_candidates save"),
            Names("Make, write and export", UR, "make_pairs write_pairs export_pairs"),
            Names("", f"{UR}.pairs.make", "PairResult"),
            Names("", f"{UR}.pairs.strategies", "Strategy"),
            Names("", f"{UR}.pairs.export", "Format"),
        ),
    ),
    "measure": ApiPage(
        "Evaluate and benchmark",
        "Which of several models is better ([evaluate generators]"
        "(../../howto/evaluate-generators.md)), and how good a judge is "
        "([benchmark](../../howto/benchmark.md)).",
        (
            Names("Evaluate models", UR, "read_models evaluate_models"),
            Names("", f"{UR}.evaluate.outputs", "ModelOutputs RewardValues"),
            Names("", f"{UR}.evaluate.run", "Result"),
            Names("Benchmark a judge", UR, "run_benchmark"),
            Names("", f"{UR}.bench.run", "Result"),
            Names(
                "A benchmark of your own",
                f"{UR}.bench.benchmark",
                "Benchmark BenchmarkOptions BenchmarkMetrics JudgedItem pairwise_metrics "
                "grouped_pairwise_metrics",
            ),
            Names("", f"{UR}.bench.metrics", "Metric"),
            Names("", f"{UR}.bench.registry", "benchmark_names find_benchmark"),
        ),
    ),
    "train": ApiPage(
        "Align and train",
        "Policies learn [from pairs](../../howto/align-a-policy.md) or "
        "[from rewards](../../howto/learn-from-rewards.md), judges "
        "[from records](../../howto/train-a-judge.md).",
        (
            Names("From pairs", UR, "align VLMDPO DiffusionDPO"),
            Names("From rewards", f"{UR}.train.grpo", "learn_from_judges PolicyGRPO"),
            Names("", f"{UR}.train.grpo_config", "DiffusionGRPO NFTOptions"),
            Names("", f"{UR}.train.grpo_vlm", "VLMGRPO"),
            Names("", f"{UR}.train.reward_functions", "open_reward RewardFunction"),
            Names("", UR, "trl_reward"),
            Names("Judges", UR, "train_judge JudgeTraining"),
            Names("", f"{UR}.train.scalar", "ScalarConfig"),
            Names("", f"{UR}.judges.card", "Card Calibration Head"),
            Names("Optimiser", UR, "OptimConfig"),
            Names("Policies", UR, "load_policy"),
            Names("", f"{UR}.policies", "Sampling Denoising Size seeds"),
            Names("", f"{UR}.policies.vlm", "VLMPolicy"),
            Names("", f"{UR}.policies.diffusion", "DiffusionPolicy"),
        ),
    ),
    "scorers": ApiPage(
        "Scorers",
        "[Published scorers](../../howto/published-scorers.md) are opened by `open_judge`; these "
        "are the names behind them.",
        (
            Names("Systems", f"{UR}.scorers", "scorer_names system"),
            Names("", f"{UR}.scorers.card", "ScoreCard Fact"),
            Names("A scorer of your own", f"{UR}.scorers.base", "Scorer Prepared"),
        ),
    ),
    "serving": ApiPage(
        "Serving and the client",
        "`unified_reward_client` is one file for trainers; see "
        "[the client](../../howto/reward-client.md) and [serve judges](../../howto/serve.md).",
        (
            Names("Client", CLIENT, "RewardClient AsyncRewardClient Item Image Video Reward"),
            Names("Rewards", CLIENT, "RewardSet RewardTerm Scale Report Combined"),
            Names(
                "For trainers",
                CLIENT,
                "trl_reward flow_grpo_reward verl_omni_compute_score flow_factory_reward",
            ),
            Names(
                "Numbers of groups",
                CLIENT,
                "group_index group_mean group_spread z_scores judge_noise",
            ),
            Names(
                "Media as they are sent",
                CLIENT,
                "as_medium encode_medium encode_png to_array to_pixels",
            ),
            Names("Errors of the client", CLIENT, "RewardError ServerError MediaError"),
            Names("Pickles of other clients", f"{UR}.serve.plain_pickle", "loads PickleLimits"),
        ),
    ),
    "errors": ApiPage(
        "Errors",
        "What this package raises on purpose has one base class; a message says what was wrong, "
        "what was given and what would be right.",
        (
            Names("The base class", UR, "UnifiedRewardError"),
            Names(
                "Its kinds",
                f"{UR}.core.errors",
                "ConfigError MediaError DataError ModelError ServerError UnparsedError",
            ),
        ),
    ),
    "extensions": ApiPage(
        "Extensions",
        "Another distribution adds judges, scorers, families and more by entry points: groups "
        "`unified_reward.NAME` that name an object of its package. The name then works wherever "
        "a built-in one does.",
        (
            Names("Found by name", f"{UR}.core.extensions", "Group Checkpoint extensions"),
            Names(
                "Objects of the groups",
                f"{UR}.data.sources.source",
                "Source",
                "`benchmarks`: [`Benchmark`](measure.md). `checkpoints`: `Checkpoint`. `commands`: "
                "a Typer command or application. `families`: a list of [`Template`](judges.md). "
                "`judges`: a function of a reference that returns a [`Judge`](judges.md). "
                "`recipes`: a package with YAML files. `scorers`: a class derived from "
                "[`Scorer`](scorers.md). The others are below.",
            ),
            Names("", f"{UR}.data.series", "Series Examples SeriesRequest"),
            Names("", f"{UR}.recipes.stage", "Stage"),
            Names(
                "Models of your own",
                f"{UR}.core.requests",
                "Model Request Answer ValueEstimate",
                "What a judge asks in words, and what it gets back.",
            ),
        ),
    ),
    "laboratory": ApiPage(
        "Laboratory",
        "`unified_reward_lab.microworld` draws scenes with known utilities: see "
        "[microworld](../../howto/microworld.md).",
        (
            Names("Scenes", f"{UR}_lab.microworld", "Scene Thing World random_scene render"),
            Names(
                "Captions, questions and edits",
                f"{UR}_lab.microworld",
                "Caption random_caption describe Question Reply random_question random_reply "
                "Edit random_edit apply_edit",
            ),
            Names(
                "Candidates and flaws",
                f"{UR}_lab.microworld",
                "candidate_pool make_example degrade mutate freeze reverse",
            ),
            Names(
                "Known utilities",
                f"{UR}_lab.microworld",
                "true_utilities generation_utility answer_utility edit_utility utility_gap "
                "annotator Annotator oracle",
            ),
        ),
    ),
}
_INHERITING = {f"{UR}.Image", f"{UR}.Video", f"{CLIENT}.Video"}
"""Classes whose fields are those of a base without an entry."""


def entries() -> dict[str, str]:
    """Page of every name that has an entry, by its dotted name."""
    return {
        f"{group.module}.{name}": f"reference/api/{page}.md"
        for page, content in PAGES.items()
        for group in content.groups
        for name in group.names.split()
    }


def pages() -> dict[str, str]:
    """Markdown of every page, by its path; the first lists the others."""
    texts = {f"reference/api/{name}.md": _text(page) for name, page in PAGES.items()}
    return {"reference/api/index.md": _index(), **texts}


def _text(page: ApiPage) -> str:
    lines = [f"# {page.title}", page.text]
    for group in page.groups:
        lines += [f"## {group.title}"] * bool(group.title) + [group.text] * bool(group.text)
        lines += [_entry(f"{group.module}.{name}") for name in group.names.split()]
    return "\n\n".join(lines) + "\n"


def _entry(name: str) -> str:
    options = "\n    options:\n      inherited_members: true" * (name in _INHERITING)
    return f"::: {name}{options}"


def _index() -> str:
    rows = [f"| [{page.title}]({name}.md) | {_names(name, page)} |" for name, page in PAGES.items()]
    return "\n".join(
        [
            "# Python",
            "",
            "`import unified_reward as ur` gives the names that most programs need, and loads "
            "neither torch nor transformers before one is used. Other names are imported from the "
            "module that their entry names.",
            "",
            "| For | Names |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _names(page: str, content: ApiPage) -> str:
    links = [
        f"[`{_short(group.module, name)}`]({page}.md#{group.module}.{name})"
        for group in content.groups
        for name in group.names.split()
    ]
    return ", ".join(links)


def _short(module: str, name: str) -> str:
    return f"ur.{name}" if module == UR else name


_ENTRY = re.compile(r'(<h3 id="([\w.]+)" class="doc doc-heading">.*?</h3>)', re.DOTALL)


def add_imports(html: str) -> str:
    """Add to the heading of each entry the line that imports its name."""
    return _ENTRY.sub(_with_import, html)


def _with_import(match: re.Match[str]) -> str:
    module, _, name = match[2].rpartition(".")
    return f'{match[1]}<p class="import"><code>from {module} import {name}</code></p>'


_TAGS = re.compile(r"(<pre.*?</pre>|<a .*?</a>|<h\d.*?</h\d>)", re.DOTALL)
_CODE = re.compile(r"<code>(?:ur\.)?([A-Za-z_][\w.]*)(\(\))?</code>")


def link_names(html: str, url: str) -> str:
    """Link code such as ``make_pairs`` in prose to its entry, where only one name is so called.

    Args:
        html: Content of a page; what lies in code blocks, links and headings is left alone.
        url: Address of the page from the root of the site.
    """
    known = _linkable()
    up = "../" * url.count("/")

    def link(match: re.Match[str]) -> str:
        name = known.get(match[1])
        if name is None:
            return match[0]
        place = entries()[name].removesuffix(".md")
        return f'<a class="name" href="{up}{place}.html#{name}">{match[0]}</a>'

    parts = _TAGS.split(html)
    parts[::2] = [_CODE.sub(link, part) for part in parts[::2]]
    return "".join(parts)


_AMBIGUOUS = {"load", "describe", "render", "score", "align", "rank", "family", "template"}
"""Names that are words of the text, a method or a field too."""


def _linkable() -> dict[str, str]:
    """Dotted name of an entry by what prose calls it."""
    known: dict[str, str] = {}
    public = set(import_module(UR).__all__)
    for name in entries():
        module, _, own = name.rpartition(".")
        known[name.removeprefix(f"{UR}.") if module != UR else own] = name
        is_first = own not in known or (module == UR and own in public)
        if is_first and own not in _AMBIGUOUS and (own[0].isupper() or "_" in own):
            known[own] = name
    return known
