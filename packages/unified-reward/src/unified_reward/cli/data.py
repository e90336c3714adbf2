"""``unified-reward data``: rows to train and test on."""

from __future__ import annotations

from unified_reward.cli.groups import make_app


COMMANDS = {
    "check": ("unified_reward.cli.data_files:check", "List every unusable row and the reason."),
    "convert": (
        "unified_reward.cli.data_files:convert",
        "Write rows as JSONL, or as Parquet or WebDataset with their media inside.",
    ),
    "mix": (
        "unified_reward.cli.data_files:mix",
        "Mix sources into a training file and a test file.",
    ),
    "stats": (
        "unified_reward.cli.data_files:stats",
        "Write an HTML page with counts and random rows.",
    ),
}


app = make_app("data", COMMANDS, help="Check, convert, mix and count rows of data.")
