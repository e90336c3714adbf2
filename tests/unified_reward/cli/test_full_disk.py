"""A disk that is full, or a place that cannot be written, is one line and exit code 2."""

import io
import json
import resource
import sys
from pathlib import Path

import pytest

from unified_reward.cli import main


ROWS = [
    {
        "id": f"r{i}",
        "task": "image_understanding",
        "prompt": "what is this?",
        "context": [{"image": "a.png"}],
        "candidates": [{"text": "a cat"}, {"text": "a dog"}],
        "target": {"winner": "first"},
    }
    for i in range(40)
]
FIRST = ("--judge", "scripted:first")
COMMANDS = {
    "judge": ("judge", "in.jsonl", "OUT/out.jsonl", *FIRST),
    "pairs": ("pairs", "in.jsonl", "OUT/out.jsonl", *FIRST, "--strategy", "random"),
    "audit": ("audit", "--data", "in.jsonl", *FIRST, "--out", "OUT"),
    "bench": ("bench", "--on", "microworld", "--limit", "1", *FIRST, "--out", "OUT"),
    "show": ("show", "pairs.jsonl", "--out", "OUT/page.html"),
    "stats": ("data", "stats", "in.jsonl", "--out", "OUT/page.html"),
    "convert": ("data", "convert", "in.jsonl", "OUT/out.jsonl"),
    "parquet": ("data", "convert", "in.jsonl", "OUT/out.parquet"),
    "shards": ("data", "convert", "in.jsonl", "OUT/out.tar"),
    "mix": ("data", "mix", "mix.yaml", "OUT"),
    "export": ("export", "pairs.jsonl", "OUT/out.json", "--format", "llamafactory"),
    "make": ("data", "make", "microworld", "OUT", "--task", "image_generation", "--n", "3"),
}


@pytest.fixture
def rows(files, cli):
    (files / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (files / "mix.yaml").write_text("sources: [{path: in.jsonl}]\n")
    cli("pairs", "in.jsonl", "pairs.jsonl", *FIRST, "--strategy", "random")
    return files


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["full", "a file in the way"])
def test_every_command_that_writes_names_what_cannot_be_written(cli, rows, name, fault):
    if fault == "full":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        (rows / "OUT").mkdir()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
            code, _, err = cli(*COMMANDS[name])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    else:
        (rows / "OUT").write_text("a file")
        code, _, err = cli(*COMMANDS[name])
    assert code == 2
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert "cannot be written: " in line
    assert "Traceback" not in err
    if fault == "full":
        assert not [path for path in (rows / "OUT").rglob("*") if path.suffix == ".part"]
    else:
        assert (rows / "OUT").read_text() == "a file"


class Full(io.StringIO):
    """Standard output on a full disk."""

    def flush(self):
        raise OSError(28, "No space left on device")


def test_a_full_standard_output_is_told(rows, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "argv", ["unified-reward", "judge", "in.jsonl", "o", *FIRST, "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "standard output cannot be written: No space left on device" in capsys.readouterr().err
    assert len(Path("o").read_text().splitlines()) == len(ROWS)


def test_closed_outputs_cost_no_row(rows, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "argv", ["unified-reward", "judge", "in.jsonl", "o", *FIRST, "--json"])
    main()
    sys.stdout.close()
    sys.stderr.close()
    assert len(Path("o").read_text().splitlines()) == len(ROWS)


@pytest.mark.parametrize(
    "error",
    [
        OSError(30, "Read-only file system", "model/a.bin"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_an_error_of_the_system_in_another_library_is_no_traceback(cli, monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("unified_reward.cli.app", broken)
    code, _, err = cli()
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
