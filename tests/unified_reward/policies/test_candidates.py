"""``unified-reward candidates``: one row a prompt, whatever is wrong or stops the run."""

import hashlib
import json
import resource
import shutil
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from tests.unified_reward.pairs.candidate_files import draw_pools, read_rows, write_rows
from tests.unified_reward.policies import pipelines
from unified_reward import media, policies
from unified_reward.cli.candidates import candidates
from unified_reward.core.errors import DataError, ModelError, UnifiedRewardError
from unified_reward.core.samples import Example, Task
from unified_reward.io import rows as io_rows
from unified_reward.io.rows import read_examples
from unified_reward.policies.candidates import make_candidates


KEYS = (
    *("id", "status", "reason", "task", "prompt", "candidates", "context", "criteria"),
    *("tags", "policy", "seed", "duplicates", "fingerprint"),
)


class Maker(NamedTuple):
    """A policy, and prompts for it."""

    policy: str
    options: tuple
    task: Task
    prompts: str = "about/candidates.jsonl"


@pytest.fixture(scope="module")
def makers(checkpoints, tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    says = ("--temperature", 1, "--max-new-tokens", 6)
    draws = ("--steps", 1)
    return {
        "vlm": Maker(checkpoints["qwen3_vl"], says, Task.IMAGE_UNDERSTANDING),
        "pictures": Maker(pipelines.pictures(root / "p"), draws, Task.IMAGE_GENERATION),
        "clips": Maker(pipelines.clips(root / "c"), (*draws, "--frames", 3), Task.VIDEO_GENERATION),
    }


def command(*arguments):
    """Exit code, with standard output or the error."""
    app = typer.Typer()
    app.command()(candidates)
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    if isinstance(result.exception, UnifiedRewardError):
        return 2, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def make(makers, tmp_path, monkeypatch):
    """Run the command on drawn prompts, into ``out``."""
    monkeypatch.chdir(tmp_path)

    def run(name, *options, out="out", prompts=3, n=2):
        maker = makers[name]
        file = tmp_path / maker.prompts
        if not file.exists():
            draw_pools(file.parent, prompts, 1, maker.task)
        given = ("--policy", maker.policy, "--n", n, *maker.options, *options)
        return command(file, tmp_path / out, *given)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "media").iterdir()}


def test_answers_about_pictures_become_rows(make, out, makers):
    assert make("vlm", "--seed", 5) == (0, "3 generated\n")
    rows = read_rows(out / "candidates.jsonl")
    assert [row["id"] for row in rows] == ["p0", "p1", "p2"]
    for i, row in enumerate(rows):
        assert tuple(row) == KEYS
        assert (row["status"], row["reason"], row["duplicates"]) == ("generated", None, 0)
        assert (row["policy"], row["seed"]) == (str(makers["vlm"].policy), 5)
        assert [list(item) for item in row["candidates"]] == [["text"], ["text"]]
        assert row["context"] == [{"image": f"../about/{i}-about.png"}]
    pools = [row.content for row in read_examples(out / "candidates.jsonl")]
    assert all(isinstance(item, Example) and len(item.candidates) == 2 for item in pools)
    media.open_image(pools[0].context[0])


@pytest.mark.parametrize(("name", "kind"), [("pictures", "image"), ("clips", "video")])
def test_what_is_drawn_becomes_files_named_by_their_content(name, kind, make, out):
    assert make(name, "--height", 16, "--width", 24) == (0, "3 generated\n")
    paths = [
        item[kind] for row in read_rows(out / "candidates.jsonl") for item in row["candidates"]
    ]
    assert len(set(paths)) == 6
    assert {path.removeprefix("media/") for path in paths} == files(out).keys()
    for file, content in files(out).items():
        assert file.split(".")[0] == hashlib.sha256(content).hexdigest()
        assert media.image_or_video(content) == kind
    if kind == "video":
        clip = media.sample_frames(out / paths[0], 3)
        assert clip.pixels.shape == (3, 16, 24, 3)
        assert clip.times_s == (0.0, 0.125, 0.25)


@pytest.mark.parametrize("name", ["vlm", "pictures"])
def test_candidates_do_not_depend_on_how_many_there_are(name, make, tmp_path):
    make(name, n=4, out="four")
    make(name, n=2, out="two")
    make(name, "--seed", 1, n=2, out="other")
    four, two, other = (
        [row["candidates"] for row in read_rows(tmp_path / item / "candidates.jsonl")]
        for item in ("four", "two", "other")
    )
    assert [each[:2] for each in four] == two
    assert all(a not in other[i] for i, each in enumerate(two) for a in each)


@pytest.mark.parametrize("name", ["vlm", "pictures"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(name, make, out, tmp_path):
    make(name, "--batch-size", 1)
    whole = (out / "candidates.jsonl").read_bytes()
    sampled = files(out) if name == "pictures" else None
    first = whole.index(b"\n") + 1
    for cut in (0, 40, first - 1, first, len(whole) - 1, len(whole)):
        stopped = tmp_path / f"cut{cut}"
        shutil.copytree(out, stopped)
        (stopped / "candidates.jsonl").write_bytes(whole[:cut])
        if sampled and cut < first - 1:
            shutil.rmtree(stopped / "media")
            (stopped / "media").mkdir()
            (stopped / "media" / f".{next(iter(sampled))}.part").write_bytes(b"half")
        there = {path: path.stat().st_ino for path in stopped.rglob("media/[!.]*")}
        assert make(name, "--batch-size", 1, out=stopped.name)[0] == 0
        assert {path: path.stat().st_ino for path in there} == there, "a file was written again"
        assert (stopped / "candidates.jsonl").read_bytes() == whole
        assert not sampled or files(stopped) == sampled


@pytest.mark.parametrize("changed", [("--seed", 1), ("--n", 3), ("--temperature", 0.5)])
def test_going_on_with_other_options_is_an_error(changed, make, out):
    make("vlm")
    before = (out / "candidates.jsonl").read_bytes()
    code, message = make("vlm", *changed)
    assert code == 2
    assert f"{changed[0][2:]} was" in message
    assert (out / "candidates.jsonl").read_bytes() == before


@pytest.mark.parametrize("changed", ["prompt", "context", "policy", "dtype"])
def test_going_on_with_another_input_or_policy_is_an_error(changed, make, out, tmp_path, makers):
    policy = shutil.copytree(makers["vlm"].policy, tmp_path / "policy")
    options = ["--policy", policy, "--n", 1]
    assert make("vlm", *options, prompts=2)[0] == 0
    before = (out / "candidates.jsonl").read_bytes()
    source = tmp_path / "about" / "candidates.jsonl"
    first, second = read_rows(source)
    due = "changed under 'p1'"
    if changed == "prompt":
        write_rows(source, [first, second | {"prompt": "another?"}])
    elif changed == "context":
        shutil.copy(tmp_path / "about" / "0-about.png", tmp_path / "about" / "1-about.png")
    elif changed == "policy":
        (policy / "sampling.json").write_text('{"max_new_tokens": 6}')
        due = "sampling.json is new"
    else:
        options += ["--dtype", "bfloat16"]
        due = "dtype was 'torch.float32' and is 'torch.bfloat16'"
    code, message = make("vlm", *options)
    assert code == 2
    assert due in message
    assert (out / "candidates.jsonl").read_bytes() == before


def test_a_prompt_that_failed_is_made_again_when_it_is_mended(make, out, tmp_path):
    source = draw_pools(tmp_path / "about", 2, 1, Task.IMAGE_UNDERSTANDING)
    picture = tmp_path / "about" / "0-about.png"
    picture.rename(tmp_path / "away.png")
    assert make("vlm") == (1, "1 failed, 1 generated\n")
    kept = (out / "candidates.jsonl").read_bytes().splitlines(keepends=True)[1]
    (tmp_path / "away.png").rename(picture)
    code, message = make("vlm")
    assert (code, "--retry-failed" in message) == (2, True)
    assert make("vlm", "--retry-failed") == (0, "2 generated\n")
    content = (out / "candidates.jsonl").read_bytes()
    assert content.startswith(kept)
    assert [row["id"] for row in read_rows(out / "candidates.jsonl")] == ["p1", "p0"]
    assert read_rows(source)[0]["prompt"] == read_rows(out / "candidates.jsonl")[1]["prompt"]


def test_candidates_equal_to_an_earlier_one_are_counted(make, out, monkeypatch):
    assert make("vlm", "--temperature", 0, n=3)[0] == 0
    for row in read_rows(out / "candidates.jsonl"):
        assert (len(row["candidates"]), row["duplicates"]) == (3, 2)
    shutil.rmtree(out.parent / "about")
    monkeypatch.setattr(policies, "seeds", lambda name, n, seed: [1] * n)
    assert make("pictures", n=3, prompts=1, out="drawn")[0] == 0
    (row,) = read_rows(out.parent / "drawn" / "candidates.jsonl")
    assert (len(row["candidates"]), row["duplicates"]) == (3, 2)
    assert len(files(out.parent / "drawn")) == 1


def test_a_prompt_that_cannot_be_used_costs_its_row(make, out, tmp_path, makers):
    good = read_rows(draw_pools(tmp_path / "about", 1, 1, Task.IMAGE_UNDERSTANDING))[0]
    (tmp_path / "about" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    broken = good | {"id": "broken", "context": [{"image": "broken.png"}]}
    lost = good | {"id": "lost", "context": [{"image": "none.png"}]}
    blind = good | {"id": "blind", "context": []}
    sampled = {"id": "drawn", "task": "image_generation", "prompt": "a star"}
    nameless = {key: value for key, value in good.items() if key != "id"}
    prompts = [broken, lost, blind, sampled, {"id": "typo", "promt": "x"}, good, good, nameless]
    write_rows(tmp_path / "about" / "candidates.jsonl", prompts)
    assert make("vlm") == (1, "6 failed, 2 generated\n")
    rows = {row["id"]: row for row in read_rows(out / "candidates.jsonl")}
    assert len(rows) == 8
    for name, message in {
        "broken": "broken.png",
        "lost": "none.png: cannot be opened",
        "blind": "image_understanding needs the image or video it is about in context",
        "drawn": "is for image_understanding and video_understanding, not image_generation",
        "line 5": "promt: Extra inputs are not permitted",
        "line 7": "duplicate id",
    }.items():
        assert rows[name]["status"] == "failed"
        assert message in rows[name]["reason"]
        assert (rows[name]["candidates"], rows[name]["duplicates"]) == ([], 0)
        assert tuple(rows[name]) == KEYS
    assert rows["p0"]["status"] == "generated"
    assert make("vlm") == (1, "6 failed, 2 generated\n"), "what failed is told again"


def test_withheld_pictures_are_told_and_the_others_kept(make, out, monkeypatch):
    from diffusers import StableDiffusionPipeline

    verdicts = iter([[False, True, True], [True, True, True]])
    monkeypatch.setattr(
        StableDiffusionPipeline,
        "run_safety_checker",
        lambda self, image, device, dtype: (image, next(verdicts)),
    )
    assert make("pictures", n=3, prompts=2) == (1, "1 failed, 1 generated\n")
    kept, none = read_rows(out / "candidates.jsonl")
    assert kept["reason"] == "2 of 3 withheld by the safety checker"
    assert (kept["status"], len(kept["candidates"])) == ("generated", 1)
    assert none["reason"] == "3 of 3 withheld by the safety checker"


def test_a_full_disk_is_told_and_what_is_done_stays(make, out, makers, tmp_path):
    size = ("--height", 64, "--width", 64)
    source = draw_pools(tmp_path / "about", 2, 1, Task.IMAGE_GENERATION)
    rows = read_rows(source)
    write_rows(source, rows[:1])
    assert make("pictures", *size)[0] == 0
    done, sampled = (out / "candidates.jsonl").read_bytes(), files(out)
    write_rows(source, rows)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        code, message = make("pictures", *size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert ".png cannot be written: File too large" in message
    assert (out / "candidates.jsonl").read_bytes() == done
    assert files(out) == sampled
    assert make("pictures", *size) == (0, "2 generated\n")


def test_a_policy_that_cannot_be_used_leaves_nothing_behind(make, out, tmp_path):
    pipelines.from_pictures(tmp_path / "redraws")
    code, message = make("pictures", "--policy", tmp_path / "redraws")
    assert code == 2
    assert "neither text-to-image nor text-to-video" in message
    assert make("vlm", "--steps", 3)[0] == 2
    assert make("pictures", "--policy", tmp_path / "none")[0] == 2
    assert not out.exists()


def test_json_is_the_rows_just_made(make, out):
    _, message = make("vlm", "--json")
    answer = [json.loads(line) for line in message.splitlines() if line.startswith("{")]
    assert answer == read_rows(out / "candidates.jsonl")


def test_each_row_is_parsed_once_and_of_an_earlier_run_once_more(make, out, tmp_path, monkeypatch):
    parsed = []
    read_row = io_rows.read_row

    def counting(raw, folder, **options):
        parsed.append(raw)
        return read_row(raw, folder, **options)

    source = draw_pools(tmp_path / "about", 4, 1, Task.IMAGE_UNDERSTANDING)
    monkeypatch.setattr(io_rows, "read_row", counting)
    assert make("vlm", prompts=4) == (0, "4 generated\n")
    assert len(parsed) == 4
    whole = (out / "candidates.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (out / "candidates.jsonl").write_bytes(lines[0] + lines[1])
    parsed.clear()
    assert make("vlm", prompts=4) == (0, "4 generated\n")
    assert len(parsed) == 2 + 4
    assert (out / "candidates.jsonl").read_bytes() == whole
    assert len(read_rows(source)) == 4


@pytest.mark.parametrize("name", ["vlm", "pictures"])
def test_candidates_in_memory_are_those_of_the_command(name, make, out, makers, tmp_path):
    options = {"vlm": {"temperature": 1, "max_new_tokens": 6}, "pictures": {"steps": 1}}[name]
    assert make(name)[0] == 0
    policy = policies.load(makers[name].policy, options)
    prompts = [row.content for row in read_examples(tmp_path / makers[name].prompts)]
    written = [row.content for row in read_examples(out / "candidates.jsonl")]
    for made, known in zip(make_candidates(prompts, policy, n=2), written, strict=True):
        assert (made.id, made.prompt, made.task) == (known.id, known.prompt, known.task)
        if name == "vlm":
            assert made.candidates == known.candidates
        for image, file in zip(made.candidates, known.candidates, strict=True):
            if name == "pictures":
                assert media.encode_lossless(image)[0] == file.source.read_bytes()


def test_captions_are_prompts_whose_equal_candidates_are_the_same(makers, monkeypatch):
    policy = policies.load(makers["pictures"].policy, {"steps": 1})
    (made,) = make_candidates(["a red star"], policy, n=2)
    assert (made.id, made.task) == ("a red star", Task.IMAGE_GENERATION)
    assert made.candidates[0] != made.candidates[1]
    with pytest.raises(DataError, match="duplicate id 'a red star'"):
        [*make_candidates(["a red star", "a red star"], policy, n=1)]
    monkeypatch.setattr(policies, "seeds", lambda name, n, seed: [1] * n)
    (made,) = make_candidates(["a red star"], policy, n=2)
    assert made.candidates[0] == made.candidates[1], "as equal files are"


def test_a_prompt_without_candidates_is_an_error_or_is_logged(makers):
    policy = policies.load(makers["pictures"].policy, {"steps": 1})
    question = Example(Task.IMAGE_UNDERSTANDING, "what?", id="q")
    reason = "q: .* is for image_generation, not image_understanding"
    with pytest.raises(ModelError, match=reason):
        [*make_candidates([question, "a red star"], policy, n=1)]
    log = []
    failed, made = make_candidates([question, "a red star"], policy, n=1, log=log.append)
    assert (failed.candidates, len(made.candidates)) == ((), 1)
    assert len(log) == 1
    assert "is for image_generation" in log[0]
