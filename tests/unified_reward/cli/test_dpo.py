"""``unified-reward dpo`` on the command line: its files, output, messages and exit code."""

import json

import pytest

from tests.unified_reward.pairs.candidate_files import draw_pools, read_rows, write_rows
from unified_reward import policies
from unified_reward.core.samples import Task
from unified_reward.policies import Sampling


QUICK = ("optim.steps=2", "optim.batch_size=2", "optim.accumulate=1", "optim.lora_rank=2")
PROMPTS = 4


def written_pairs(folder, task):
    """A pairs file of microworld candidates: the first of each prompt is preferred."""
    rows = read_rows(draw_pools(folder, PROMPTS, 6, task))
    for row in rows:
        first, *others = row["candidates"]
        second = next(one for one in others if one != first)
        row |= {"status": "kept", "chosen": first, "rejected": second}
    return write_rows(folder / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return written_pairs(tmp_path_factory.mktemp("answers"), Task.IMAGE_UNDERSTANDING)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return written_pairs(tmp_path_factory.mktemp("pictures"), Task.IMAGE_GENERATION)


def without_media(pairs, key):
    """Copy of a file of pairs in which one media file is missing."""
    rows = read_rows(pairs)
    part = rows[1][key][0] if key == "context" else rows[1][key]
    part["image"] = "gone.png"
    return write_rows(pairs.with_name("lacking.jsonl"), rows)


def test_a_speaker_is_aligned_and_its_run_is_kept(cli, answers, tmp_path):
    out = tmp_path / "run"
    code, printed, _ = cli("dpo", answers, "--policy", "tiny_vlm", "--out", out, *QUICK)
    assert code == 0
    assert printed.startswith(f"{PROMPTS} pairs, loss 0.693 to ")
    assert printed.strip().endswith(str(out / "dpo"))
    for name in ("config.yaml", "environment.json", "report.json"):
        assert (out / "dpo" / name).is_file()
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["dpo"]["rows"] == {"kept": PROMPTS}
    assert [step for step, _ in report["dpo"]["losses"]] == [1, 2]
    policy = policies.load(out / "dpo", device="cpu")
    assert policy.options == Sampling(max_new_tokens=48)


def test_a_second_run_has_nothing_to_do_and_prints_the_same(cli, answers, tmp_path):
    arguments = ("dpo", answers, "--policy", "tiny_vlm", "--out", tmp_path, *QUICK)
    first = cli(*arguments)
    second = cli(*arguments)
    assert "dpo: already done" in second[2]
    assert "already done" not in first[2]
    assert second[:2] == first[:2]


@pytest.mark.parametrize("policy", ["tiny_vlm", "tiny_image"])
def test_json_is_exactly_one_object(cli, request, tmp_path, policy):
    pairs = request.getfixturevalue("answers" if policy == "tiny_vlm" else "pictures")
    for _ in range(2):
        code, printed, _ = cli(
            "dpo", pairs, "--policy", policy, "--out", tmp_path, "--json", *QUICK
        )
        assert code == 0
        message = json.loads(printed)
        assert message["pairs"] == PROMPTS
        assert len(message["losses"]) == 2
    assert policies.load(tmp_path / "dpo", device="cpu").tasks[0].value.startswith("image")


def test_without_a_folder_the_run_stands_beside_the_pairs(cli, answers):
    assert cli("dpo", answers, "--policy", "tiny_vlm", *QUICK)[0] == 0
    assert (answers.parent / "pairs-dpo" / "dpo" / "report.json").is_file()


@pytest.mark.parametrize("policy", ["tiny_vlm", "tiny_image"])
def test_an_unknown_key_is_named(cli, request, tmp_path, policy):
    pairs = request.getfixturevalue("answers" if policy == "tiny_vlm" else "pictures")
    arguments = ("dpo", pairs, "--policy", policy, "--out", tmp_path / "run")
    code, printed, err = cli(*arguments, *QUICK, "optim.stpes=3")
    assert (code, printed) == (2, "")
    assert "optim.stpes" in err
    assert not (tmp_path / "run").exists()


def test_options_of_the_other_kind_are_unknown(cli, answers, tmp_path):
    code, _, err = cli(
        "dpo", answers, "--policy", "tiny_vlm", "--out", tmp_path, *QUICK, "weighting=noise"
    )
    assert code == 2
    assert "weighting" in err


@pytest.mark.parametrize(
    ("policy", "mine", "theirs"),
    [
        ("tiny_vlm", "image_understanding and video_understanding", "image_generation"),
        ("tiny_image", "image_generation", "image_understanding"),
    ],
)
def test_a_policy_of_the_wrong_kind_is_refused_naming_both(
    cli, request, tmp_path, policy, mine, theirs
):
    pairs = request.getfixturevalue("pictures" if policy == "tiny_vlm" else "answers")
    code, printed, err = cli("dpo", pairs, "--policy", policy, "--out", tmp_path, *QUICK)
    assert (code, printed) == (2, "")
    assert f"the policy is for {mine}" in err
    assert f"are of {theirs}" in err


@pytest.mark.parametrize(
    ("policy", "key"), [("tiny_vlm", "context"), ("tiny_image", "chosen")], ids=["vlm", "diffusion"]
)
def test_missing_media_are_told_and_the_others_are_learned(cli, request, tmp_path, policy, key):
    pairs = request.getfixturevalue("answers" if policy == "tiny_vlm" else "pictures")
    lacking = without_media(pairs, key)
    arguments = ("dpo", lacking, "--policy", policy, "--out", tmp_path, *QUICK)
    code, printed, err = cli(*arguments)
    assert code == 1
    assert printed.startswith(f"{PROMPTS - 1} pairs, loss ")
    assert "pair 'p1': " in err
    assert "gone.png" in err
    again = cli(*arguments)
    assert again[:2] == (1, printed)


def test_a_line_that_cannot_be_read_is_told_and_ends_with_1(cli, answers, tmp_path):
    torn = answers.with_name("torn.jsonl")
    torn.write_text(answers.read_text("utf-8") + "{broken\n", "utf-8")
    code, _, err = cli("dpo", torn, "--policy", "tiny_vlm", "--out", tmp_path, *QUICK)
    assert code == 1
    assert f"line {PROMPTS + 1}: " in err


def test_pairs_that_were_dropped_on_purpose_are_no_fault(cli, answers, tmp_path):
    first, *others = read_rows(answers)
    fewer = write_rows(answers.with_name("fewer.jsonl"), [first | {"status": "dropped"}, *others])
    code, printed, _ = cli("dpo", fewer, "--policy", "tiny_vlm", "--out", tmp_path, *QUICK)
    assert code == 0
    assert printed.startswith(f"{PROMPTS - 1} pairs, ")


def test_a_file_that_is_not_there_is_told(cli, tmp_path):
    code, _, err = cli("dpo", tmp_path / "no.jsonl", "--policy", "tiny_vlm", *QUICK)
    assert code == 2
    assert "no.jsonl" in err


@pytest.mark.parametrize(
    ("task", "policy"),
    [(Task.IMAGE_UNDERSTANDING, "tiny_vlm"), (Task.IMAGE_GENERATION, "tiny_image")],
)
def test_prompts_of_the_microworld_get_candidates(cli, tmp_path, task, policy):
    made = ("data", "make", "microworld", tmp_path / "in", "--task", task.value, "--n", 3)
    code, printed, _ = cli(*made, "--form", "prompt", "--seed", 4)
    prompts = tmp_path / "in" / "prompts.jsonl"
    assert (code, printed.strip()) == (0, str(prompts))
    assert [row["candidates"] for row in read_rows(prompts)] == [[], [], []]
    code, printed, _ = cli("candidates", prompts, tmp_path / "out", "--policy", policy, "--n", 2)
    assert (code, printed.strip()) == (0, "3 generated")
    rows = read_rows(tmp_path / "out" / "candidates.jsonl")
    assert [row["id"] for row in rows] == [f"{task.value}-brief-train-4-{i}" for i in range(3)]
    assert [len(row["candidates"]) for row in rows] == [2, 2, 2]
