import json
from dataclasses import replace

import pytest

from tests.unified_reward.arena.made import item
from unified_reward.arena.verdicts import judge_probabilities
from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.io.verdict_rows import verdict_row


def scored(value):
    return Scored(Score(value, Scale(0, 10)))


@pytest.fixture
def items(tmp_path):
    """Pairs of alpha and beta at prompts 0 to 3, as an evaluation names them."""
    items = []
    for i in range(4):
        pair = item(str(i), tmp_path)
        items.append(replace(pair, example=replace(pair.example, id=f"alpha|beta/{i}/0")))
    return items


def write(path, verdicts):
    path.parent.mkdir(exist_ok=True)
    rows = (verdict_row(name, one, judge="j", family="") for name, one in verdicts.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_comparisons_come_first_and_scores_decide_the_rest(tmp_path, items):
    """Scores 7 and 3: alpha wins; equal ones tie; one alone, or one unread, says nothing."""
    verdicts = {
        "alpha|beta/0/0": Preferred(0.1, 0.2, 0.7),
        "alpha/0/0": scored(9),
        "beta/0/0": scored(1),
        "alpha/1/0": scored(3),
        "beta/1/0": scored(7),
        "alpha/2/0": scored(5),
        "beta/2/0": scored(5),
        "alpha/3/0": scored(5),
        "beta/3/0": Unparsed("?"),
        "beta/3/1": Failed("?"),
        "elsewhere": Preferred(1, 0, 0),
    }
    expected = {"alpha|beta/0/0": pytest.approx(0.2), "alpha|beta/1/0": 0.0, "alpha|beta/2/0": 0.5}
    file = write(tmp_path / "verdicts" / "judge.jsonl", verdicts)
    assert judge_probabilities(file, items) == expected
    assert judge_probabilities(tmp_path, items) == expected, "the folder of an evaluation"


def test_a_folder_of_several_rewards_asks_for_one(tmp_path, items):
    for name in ("a", "b"):
        write(tmp_path / "verdicts" / f"{name}.jsonl", {})
    with pytest.raises(ConfigError, match=r"verdicts of 2 rewards: .*a\.jsonl, .*b\.jsonl; name"):
        judge_probabilities(tmp_path, items)
