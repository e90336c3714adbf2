"""Standings of an arena: by hand, and what must not enter them."""

import json

import pytest

from unified_reward.arena.standings import standings
from unified_reward.core.samples import Example, Image, Task
from unified_reward.evaluate.bradley_terry import fit_bradley_terry
from unified_reward.evaluate.estimates import vote_comparisons, win_rate
from unified_reward.io.vote_rows import Vote


MODELS = ["new", "old", "raw"]


def vote(item, choice, rater="ann", *, models=("new", "old"), prompt=None, order="ab", **more):
    tags = {"prompt_id": prompt or item}
    images = (Image("a.png"), Image("b.png"))
    example = Example(Task.IMAGE_GENERATION, f"a cat {item}", images, id=item, tags=tags)
    fields = {"seconds": 2.0, "at": "2026-11-30T00:00:00Z"} | more
    return Vote(example, *models, choice, rater, order=order, **fields)


def some_votes():
    outcomes = ["a", "a", "b", "tie", "a", "a", "both_bad", "a"]
    return [
        *(vote(f"n{k}", choice) for k, choice in enumerate(outcomes)),
        *(vote(f"r{k}", "a", models=("old", "raw"), prompt=f"n{k}") for k in range(8)),
        vote("n0", "b", "bob"),
        vote("n1", "a", "bob"),
        vote("n2", "cannot_tell", "bob"),
    ]


def test_without_votes_there_is_a_whole_answer():
    result = standings([], MODELS, {"n0": 0.5}, needed={"n0": 2})
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["votes"] == {
        "n": 0,
        "a": 0,
        "b": 0,
        "tie": 0,
        "both_bad": 0,
        "cannot_tell": 0,
        "gold": 0,
        "repeats": 0,
    }
    assert result["models"]["raw"] == {
        "strength": 0.0,
        "ci95": None,
        "rank": [1, 3],
        "win_rate": None,
        "win_rate_ci95": None,
        "n": 0,
    }
    assert result["win_rates"] == {"new": {}, "old": {}, "raw": {}}
    assert result["agreement"]["reason"] == "no item was judged twice"
    assert result["judge"]["accuracy"] == {"value": None, "ci95": None, "n": 0}
    assert result["progress"] == {"votes": 0, "items": 1, "complete": 0, "needed": 2}
    assert (result["raters"], result["aspects"]) == ([], {})


def test_models_are_ranked_by_the_votes_on_prompts():
    votes = some_votes()
    result = standings(votes, MODELS)
    assert result["votes"]["n"] == 19
    assert (result["votes"]["a"], result["votes"]["cannot_tell"]) == (14, 1)
    comparisons = vote_comparisons(votes)
    for model, row in fit_bradley_terry(MODELS, comparisons).rows().items():
        assert row.items() <= result["models"][model].items()
    # n0 is 1 and 0, n1 1 and 1, n2 0, n3 and n6 are ties, and n4, n5 and n7 are won.
    assert result["win_rates"]["new"]["old"]["value"] == (0.5 + 1 + 0 + 0.5 + 1 + 1 + 0.5 + 1) / 8
    assert result["win_rates"]["old"]["new"] == win_rate(comparisons, "old", "new").row()
    assert "raw" not in result["win_rates"]["new"]
    assert (result["models"]["raw"]["win_rate"], result["models"]["raw"]["n"]) == (0, 8)
    assert result["models_reason"] == ""
    assert result["judge"] is None
    json.dumps(result, allow_nan=False)


def test_gold_items_and_repeats_test_raters_and_nothing_else():
    votes = some_votes()
    tests = [
        vote("g1", "b", "bob", gold="a", aspects={"style": (1, 5)}),
        vote("g2", "tie", "bob", gold="both_bad"),
        vote("g3", "cannot_tell", "bob", gold="a"),
        vote("n0 #2", "b", "bob", repeats="n0", order="ba"),
        vote("n1 #2", "tie", "bob", repeats="n1", order="ba"),
        vote("n9 #2", "a", "bob", repeats="n9"),
    ]
    judge = dict.fromkeys(["n0", "n1", "g1", "n0 #2"], 0.9)
    plain, tested = (standings(each, MODELS, judge) for each in (votes, votes + tests))
    assert (tested["votes"].pop("gold"), tested["votes"].pop("repeats")) == (3, 3)
    assert tested["votes"].items() <= plain["votes"].items()
    for key in ("models", "win_rates", "agreement", "judge", "aspects", "progress"):
        assert tested[key] == plain[key]
    [_, bob] = tested["raters"]
    assert bob["gold"] == {"right": 1, "n": 3}
    assert bob["repeats"] == {"consistent": 1, "n": 2}


def test_a_rater_is_described():
    votes = [
        vote("1", "a", order="ab", seconds=1.0),
        vote("2", "b", order="ba", seconds=9.0),
        vote("3", "a", order="ba", seconds=2.0),
        vote("4", "tie", order="ba", seconds=4.0),
        vote("5", "cannot_tell", seconds=3.0),
        vote("1", "tie", "bob"),
    ]
    ann, bob = standings(votes, MODELS)["raters"]
    assert ann == {
        "name": "ann",
        "n": 5,
        "left_share": 2 / 3,
        "seconds": 3.0,
        "cannot_tell": 1,
        "gold": {"right": 0, "n": 0},
        "repeats": {"consistent": 0, "n": 0},
    }
    assert (bob["name"], bob["left_share"]) == ("bob", None)


def test_agreement_of_raters_by_hand():
    """Votes aa, ab and bt: 2/3 differ, where 1 - (3 · 2 + 2 · 1) / 30 would by chance."""
    votes = [
        *(vote("1", "a"), vote("1", "a", "bob")),
        *(vote("2", "a"), vote("2", "b", "bob")),
        *(vote("3", "b"), vote("3", "both_bad", "bob"), vote("3", "cannot_tell", "cy")),
        vote("4", "a"),
    ]
    agreement = standings(votes, MODELS)["agreement"]
    assert agreement.pop("alpha") == pytest.approx(1 - (2 / 3) / (22 / 30))
    assert agreement == {"reason": "", "items": 3, "raters": 2, "votes": 7}


def test_the_judge_is_measured_against_the_majority_of_people():
    votes = [
        *(vote("1", "a"), vote("1", "a", "bob"), vote("1", "b", "cy")),
        *(vote("2", "b"), vote("2", "tie", "bob")),
        vote("3", "a"),
        *(vote("4", "a"), vote("4", "b", "bob")),
        vote("5", "a"),
        vote("6", "cannot_tell"),
        vote("7", "a"),
    ]
    judge = {"1": 0.9, "2": 0.7, "3": 0.5, "4": 1.0, "5": 1.0, "6": 0.2}
    result = standings(votes, MODELS, judge)["judge"]
    # Right on 1 and 5, wrong on 2, undecided on 3; people are on 4, and 7 has no verdict.
    assert (result["accuracy"]["value"], result["accuracy"]["n"]) == (2.5 / 4, 4)
    assert result["items"] == 4
    rows = result["disagreements"]
    assert [row["id"] for row in rows] == ["3", "4", "2", "1"]
    assert rows[2] == {
        "id": "2",
        "prompt": "a cat 2",
        "a": "new",
        "b": "old",
        "people": 0.25,
        "judge": 0.7,
        "votes": 2,
    }


def test_stars_are_averaged_by_prompt():
    votes = [
        vote("1", "a", aspects={"style": (5, 3), "text": (2, 2)}),
        vote("1", "a", "bob", aspects={"style": (3, 3)}),
        vote("2", "b", models=("old", "new"), aspects={"style": (2, 5)}),
    ]
    aspects = standings(votes, MODELS)["aspects"]
    assert aspects["style"]["new"]["mean"] == 4.5
    # Half of Student's t is 6.353, so 14.52 on the logit 1.946 of 4.5 on 1 to 5.
    assert aspects["style"]["new"]["ci95"] == pytest.approx([1.0000138, 5], abs=1e-6)
    assert aspects["style"]["old"]["mean"] == 2.5
    assert aspects["text"] == {
        "new": {"mean": 2.0, "ci95": None, "n": 1},
        "old": {"mean": 2.0, "ci95": None, "n": 1},
    }


def test_pairs_of_files_rank_no_models():
    votes = [vote("1", "a", models=("x.png", "y.png")), vote("2", "tie")]
    result = standings(votes, [])
    assert (result["models"], result["win_rates"], result["votes"]["n"]) == ({}, {}, 2)
    assert result["models_reason"] == "the pairs name no models, so none are ranked"
    mixed = standings(votes, MODELS)
    assert mixed["models"]["new"]["n"] == 1
    assert mixed["models_reason"] == "votes on other pairs, which rank no models: 1"


def test_progress_counts_votes_on_the_items_that_are_asked():
    votes = some_votes()
    needed = {"n0": 2, "n1": 2, "n2": 2, "n3": 2, "zz": 2}
    progress = standings(votes, MODELS, needed=needed)["progress"]
    assert progress == {"votes": 7, "items": 5, "complete": 3, "needed": 10}
    progress = standings(votes, MODELS, needed=dict.fromkeys(needed, 1))["progress"]
    assert progress == {"votes": 4, "items": 5, "complete": 4, "needed": 5}, "more count once"
    assert standings(votes, MODELS)["progress"] == {
        "votes": 19,
        "items": 16,
        "complete": None,
        "needed": None,
    }
