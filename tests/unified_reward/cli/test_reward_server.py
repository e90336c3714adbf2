"""The command line over a judge of a reward server."""

import json

import pytest

from tests.unified_reward.cli.test_without_extras import OF_EXTRAS, without
from tests.unified_reward.pairs.candidate_files import read_rows
from tests.unified_reward.serve.running import serving
from unified_reward.judges.registry import open_judge


def test_pairs_over_a_server_are_those_of_the_judge_itself(cli, files):
    images = [{"image": name} for name in ("a.png", "b.png", "c.png", "broken.png")]
    (files / "broken.png").write_bytes((files / "a.png").read_bytes()[:60])
    row = {"id": "x", "task": "image_generation", "prompt": "p", "candidates": images}
    (files / "pool.jsonl").write_text(json.dumps(row) + "\n")
    made = []
    with serving({"random": open_judge("scripted:random")}) as url:
        for judge in ("scripted:random", f"reward+{url}/random"):
            out = files / f"{len(made)}.jsonl"
            code, _, err = cli("pairs", "pool.jsonl", out, "--judge", judge)
            assert code == 0, err
            made += read_rows(out)
    ours, theirs = made
    assert theirs["judge"] == f"random at {url}"
    assert {k: v for k, v in ours.items() if k not in ("judge", "fingerprint")} == {
        k: v for k, v in theirs.items() if k not in ("judge", "fingerprint")
    }


@pytest.mark.usefixtures("files")
def test_a_reward_server_is_asked_without_any_extra():
    hidden = [*OF_EXTRAS, "fastapi", "prometheus_client", "uvicorn"]
    arguments = ("compare", "a.png", "b.png", "--prompt", "p", "--json", "--judge")
    with serving({"first": open_judge("scripted:first")}) as url:
        code, out, err = without(hidden, *arguments, f"reward+{url}")
    assert (code, err) == (0, "")
    assert json.loads(out)["orders"][0]["winner"] == "first"
