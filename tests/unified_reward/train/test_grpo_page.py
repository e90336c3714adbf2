"""Pages of runs of reinforcement learning, from figures as a run writes them."""

import json

import pytest

from tests.unified_reward.report.test_page import Reader
from unified_reward.report import charts
from unified_reward.report.charts import line_chart
from unified_reward.train.grpo_page import PAGE, RunFacts, build_run_page, write_run_page


@pytest.fixture
def drawn_charts(monkeypatch):
    monkeypatch.setattr(charts, "line_chart", line_chart)


def row(step, **figures):
    defaults = {"loss": 0.0, "reward": 4 + step / 10, "spread": 0.3, "diversity": 0.1, "kl": 1e-4}
    counts = dict.fromkeys(("failed", "failed_groups", "constant_groups"), 0.0)
    return {"step": step, "clipped": 0.1, "deviation": 1e-5, **defaults, **counts, **figures}


def facts(**changes):
    given = {"policy": "tiny_image", "rewards": ["tiny_judge"]}
    settings = {
        "algorithm": "grpo",
        "updates": 2,
        "optim": {"lr": 3e-4, "steps": 10},
        "weights": [],
    }
    return RunFacts(**(given | {"settings": settings | changes.pop("settings", {})} | changes))


def read(rows, **changes):
    return Reader(build_run_page(rows, facts(**changes)))


def described(page):
    """Descriptions of the charts by their titles."""
    labels = [label for label in page.values("aria-label") if label]
    return {title: text for title, _, text in (label.partition(": ") for label in labels)}


@pytest.mark.usefixtures("drawn_charts")
def test_a_run_that_was_killed_has_the_figures_up_to_then():
    page = read([{"step": 0, "held_out": 4.0}, row(1), row(2, held_out=4.5), row(3)])
    assert "Steps 3 of 10" in page.text
    assert "Trained reward 4.3 4.1 at first" in page.text
    assert "Held-out reward 4.5 4 at first" in page.text
    assert described(page)["Reward"] == (
        "training prompts 4.1 at 1, 4.3 at 3; held-out prompts 4 at 0, 4.5 at 2"
    )


def test_a_reward_that_is_not_trained_on_says_where_it_turned():
    """The highest of 0.5, 0.7 and 0.4 is that after step 2."""
    oracle = {0: 0.5, 2: 0.7, 4: 0.4}
    rows = [{"step": 0}, *map(row, range(1, 5))]
    for given in rows:
        if given["step"] in oracle:
            named = {"tiny_judge": 4.0, "oracle": oracle[given["step"]]}
            given |= {"held_out": 4.0, "held_out_rewards": named}
    page = read(rows)
    assert "Highest at step 2: 0.7. Not trained on" in page.text
    assert described(page)["oracle"] == "held-out prompts 0.5 at 0, 0.4 at 4"
    assert "tiny_judge, not trained on" not in page.text
    assert "keep the policy from before" in page.text
    assert "keep the policy from before" not in read([row(1)]).text


def test_each_of_several_rewards_has_a_chart():
    rows = [row(i, rewards={"a": i / 4, "b": 2.0}) for i in (1, 2)]
    found = described(read(rows, rewards=["a", "b"]))
    assert found["a"] == "training prompts 0.25 at 1, 0.5 at 2"
    assert {"All rewards", "a", "b"} < found.keys()


@pytest.mark.parametrize("updates", [1, 2])
def test_one_update_a_step_is_explained_in_place_of_an_empty_chart(updates):
    page = read([row(1, clipped=0.0, deviation=0.0)], settings={"updates": updates})
    assert ("every ratio of densities is exactly 1" in page.text) == (updates == 1)
    assert ("Clipped samples" in described(page)) == (updates == 2)


def test_the_old_policy_of_nft_has_a_distance():
    given = row(1, clipped=None, deviation=0.25)
    page = read([given], settings={"algorithm": "nft", "updates": 1})
    assert described(page)["Distance from the policy that samples"] == "0.25 at 1, 0.25 at 1"
    assert "Clipped samples" not in described(page)
    assert "exactly 1" not in page.text


@pytest.mark.usefixtures("drawn_charts")
def test_failures_are_counted_and_never_a_number():
    rows = [row(1), row(2, reward=None, kl=None, failed=8.0, failed_groups=2.0), row(3)]
    page = read(rows)
    assert "Failed rewards 8 2 groups taught nothing" in page.text
    assert described(page)["Reward"] == "training prompts 4.1 at 1, 4.3 at 3"
    assert described(page)["Failures"].startswith("rewards that failed 0 at 1, 0 at 3")
    assert "No reward failed" in read([row(1)]).text


def test_other_figures_have_a_chart_by_their_own_name():
    assert described(read([row(1, tokens=12.0), row(2, tokens=9.0)]))["tokens"] == "12 at 1, 9 at 2"


@pytest.mark.usefixtures("drawn_charts")
def test_samples_are_files_beside_the_page_with_their_prompts(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (0, 20, 40, 60, 80):
        (tmp_path / "samples" / f"step-{step:06}.png").touch()
    lines = "".join(json.dumps(row(i)) + "\n" for i in (1, 2))
    (tmp_path / "history.jsonl").write_text(lines, "utf-8")
    run = facts(sheet_prompts=['a "red" star', "<b>"])
    write_run_page(tmp_path, run)
    page = Reader(build_run_page([row(1)], run, sorted((tmp_path / "samples").iterdir())))
    assert [name for name in page.values("src") if not name.startswith("data:")] == [
        f"samples/step-{step:06}.png" for step in (0, 40, 80)
    ]
    assert set(page.values("loading")) == {"lazy"}
    assert page.values("alt")[1] == 'Samples, after step 40: a "red" star; <b>'
    assert "Before training" in page.text
    written = (tmp_path / PAGE).read_text("utf-8")
    assert "http" not in written.replace('http-equiv="Content-Security-Policy"', "")
    assert "img-src 'self' file: data:" in written


def test_settings_are_listed_by_their_keys():
    page = read([row(1)], prompts=363)
    assert "optim.lr 0.0003" in page.text
    assert "weights none" in page.text
    assert "prompts 363" in page.text
