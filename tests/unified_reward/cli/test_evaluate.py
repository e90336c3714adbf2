"""``unified-reward evaluate`` and ``evaluate-diff`` from folders of files to figures."""

import json
import signal
import subprocess
import sys
import threading
import zlib

import pytest

from tests.fake_server import FakeServer, chat
from tests.unified_reward.cli.test_judge_file import _wait_for
from tests.unified_reward.media.made import noise, picture
from unified_reward.media import encode_png


N = 3
MODELS = ("base", "new")
IN_FOURS = (
    "import unified_reward.judges.bulk as b; b.CHUNK = 4; import unified_reward.cli as c; c.main()"
)


def draw(folder, model, seed):
    for i in range(N):
        path = folder / model / f"{i:04d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(picture(noise(16 + seed + i, 16, 3))))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two models with a picture for each of three prompts, and a table of their scores."""
    monkeypatch.chdir(tmp_path)
    for model, seed in zip(MODELS, (0, 10), strict=True):
        draw(tmp_path, model, seed)
    categories = ("animals", "animals", "things")
    lines = [f"prompt {i},{category}" for i, category in enumerate(categories)]
    (tmp_path / "prompts.csv").write_text("\n".join(["prompt,category", *lines]), "utf-8")
    rows = [f"base/{i}/0,{i}" for i in range(N)] + ["new/0/0,1", "new/1/0,1", "new/2/0,4"]
    (tmp_path / "scores.csv").write_text("\n".join(["id,value", *rows]), "utf-8")
    return tmp_path


@pytest.fixture
def evaluate(cli, folder):
    def run(*arguments, models=MODELS):
        return cli("evaluate", *models, "--prompts", "prompts.csv", *arguments)

    return run


def test_a_table_gives_one_object_with_the_figures_and_a_page(evaluate, folder):
    """Leads 1, 0 and 2: mean 1. Wins 1, 1/2 and 1."""
    code, out, _ = evaluate("--judge", "t=table:scores.csv", "--out", "out", "--json")
    report = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert report == json.loads((folder / "out" / "report.json").read_text("utf-8"))
    assert report["rewards"] == ["t"]
    assert report["models"]["new"]["t"].items() >= {"mean": 2, "median": 1, "n": 3}.items()
    paired = report["paired"]["new"]["t"]
    assert (paired["difference"], paired["n"]) == (1, 3)
    assert paired["win_rate"] == pytest.approx(2.5 / 3)
    assert report["missing"] == []
    assert report["bradley_terry"]["t"]["new"]["strength"] > 0
    assert report["categories"]["animals"]["n"] == 2
    page = (folder / "out" / "page.html").read_text("utf-8")
    assert "new against base" in page


def test_one_folder_has_its_scores_within_the_scale_and_nobody_to_be_compared_with(
    evaluate, folder
):
    given = ("--judge", "r=scripted:random", "--out", "out")
    code, out, _ = evaluate(*given, models=["base"])
    assert code == 0
    header = next(line for line in out.splitlines() if "mean" in line)
    assert header.replace("┃", "").split() == ["mean", "n"]
    assert "strength" not in out
    report = json.loads((folder / "out" / "report.json").read_text("utf-8"))
    low, high = report["models"]["base"]["r"]["ci95"]
    assert 1 <= low < high <= 5
    assert report["paired"] == report["bradley_terry"] == report["win_rates"] == {}
    page = (folder / "out" / "page.html").read_text("utf-8")
    assert "All models against each other" not in page
    assert "baseline base" not in page
    assert "paired differences" not in page


def test_the_table_for_people_names_differences_warnings_and_what_is_missing(evaluate, folder):
    (folder / "new" / "0001.png").write_bytes(b"no picture")
    (folder / "base" / "0002.png").unlink()
    code, out, err = evaluate("--judge", "scripted:random", "--out", "out")
    assert code == 1
    assert "minus base" in out
    assert "warning: 3 prompts are few" in out
    assert "base: 1 missing, such as 2: it has no output" in out
    assert "new: 1 broken, such as 1: new/0001.png" in out
    assert "page: out/page.html" in out
    assert "--retry-failed asks them again" in err


def test_a_broken_picture_is_listed_with_its_reason(evaluate, folder):
    (folder / "new" / "0001.png").write_bytes(b"no picture")
    code, out, _ = evaluate("--judge", "scripted:second", "--json")
    report = json.loads(out)
    assert code == 1
    (row,) = report["missing"]
    assert (row["model"], row["prompt"], row["kind"]) == ("new", "1", "broken")
    assert report["models"]["new"]["scripted:second"]["n"] == 2
    assert report["paired"]["new"]["scripted:second"]["n_comparisons"] == 2
    assert report["judges"]["scripted:second"]["failed"] == 2


@pytest.mark.slow
def test_real_judges_are_asked_what_they_answer(evaluate):
    """6 scores and 3 comparisons in both orders; wins by a value head follow from its scores."""
    code, out, _ = evaluate("--judge", "j=tiny_judge", "--judge", "s=tiny_scalar", "--json")
    report = json.loads(out)
    assert (code, report["rewards"]) == (0, ["j", "s"])
    assert {name: judge["calls"] for name, judge in report["judges"].items()} == {"j": 12, "s": 6}
    assert report["judges"]["s"]["scale"] == [0, 1]
    assert 0 < report["paired"]["new"]["j"]["win_rate"] < 1
    assert -1 <= report["correlations"][0]["spearman"] <= 1


def test_a_later_model_is_asked_about_and_a_changed_picture_refused(evaluate, folder):
    arguments = ("--judge", "j=scripted:random", "--out", "out", "--json")
    first = json.loads(evaluate(*arguments)[1])
    journal = folder / "out" / "verdicts" / "j.jsonl"
    before = journal.read_bytes()
    assert json.loads(evaluate(*arguments)[1]) == first
    assert journal.read_bytes() == before
    draw(folder, "late", 20)
    report = json.loads(evaluate(*arguments, models=(*MODELS, "late"))[1])
    assert journal.read_bytes().startswith(before)
    assert len(journal.read_bytes().splitlines()) == 9 + 3 + 6
    assert report["paired"]["new"] == first["paired"]["new"]
    (folder / "base" / "0000.png").write_bytes(encode_png(picture(noise(99, 16, 3))))
    code, _, err = evaluate(*arguments)
    assert code == 2
    assert "a file of it, changed under 'base/0/0', 'base|new/0/0'" in err


def test_a_killed_run_goes_on_to_the_figures_of_a_whole_one(evaluate, folder):
    """The server holds back its answers once the first chunk is written, until the kill."""
    killed = threading.Event()
    journal = folder / "out" / "verdicts" / "j.jsonl"

    def respond(call):
        if journal.exists() and journal.stat().st_size:
            killed.wait(60)
        place = zlib.crc32(call.text.encode()) % 3
        sentence = ["Image 1 is better.", "Both images are equally good.", "Image 2 is better."]
        return chat(f"Final Score: {place + 1}" if "Final Score" in call.text else sentence[place])

    with FakeServer(respond) as server:
        arguments = ["--judge", f"j={server.url}", "--out", "out", "--json"]
        command = [sys.executable, "-c", IN_FOURS, "evaluate", *MODELS, "--prompts", "prompts.csv"]
        run = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 4)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert not (folder / "out" / "report.json").exists()
        killed.set()
        _, resumed, _ = evaluate(*arguments)
        arguments[-2] = "other"
        _, whole, _ = evaluate(*arguments)
    assert json.loads(resumed) == json.loads(whole)
    ids = [json.loads(line)["id"] for line in journal.read_text("utf-8").splitlines()]
    assert sorted(ids) == sorted({*ids})
    assert len(ids) == 9


def test_two_runs_are_compared(evaluate, folder, cli):
    evaluate("--judge", "t=table:scores.csv", "--out", "first")
    text = (folder / "scores.csv").read_text("utf-8").replace("new/0/0,1", "new/0/0,4")
    (folder / "scores.csv").write_text(text, "utf-8")
    evaluate("--judge", "t=table:scores.csv", "--out", "second")
    code, out, _ = cli("evaluate-diff", "first", "second", "--json")
    change = json.loads(out)["models"]["new"]["t"]["mean"]
    assert (code, change["a"], change["b"], change["change"]) == (0, 2, 3, 1)
    assert "B - A" in cli("evaluate-diff", "first", "second")[1]
    assert cli("evaluate-diff", "first", "base")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no judge is named, and there is no default"),
        (("--judge", "nobody"), "there is no judge 'nobody'"),
        (
            ("--judge", "my judge=scripted:tie"),
            "letters, digits and . _ - alone, unlike 'my judge'",
        ),
        (("--judge", "scripted:tie", "--judge", "scripted:tie"), "two judges are called"),
        (("--judge", "scripted:tie", "--policy", "p"), "--policy goes with --out"),
        (("--judge", "scripted:tie", "--retry-failed"), "--retry-failed goes with --out"),
        (("--judge", "scripted:tie", "--baseline", "z"), "no model 'z' to be the baseline"),
        (("--judge", "scripted:perfect"), "needs targets, which are not known here"),
        (("--judge", "scripted:tie", "--device", "cpu"), "device='cpu' is for local"),
        (("--judge", "scripted:tie", "--votes", "gone.jsonl"), "gone.jsonl"),
    ],
)
def test_wrong_usage_says_what_would_be_right(evaluate, arguments, message):
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_options_of_several_judges_go_to_those_that_take_them(evaluate):
    judges = ("--judge", "t=table:scores.csv", "--judge", "s=scripted:tie")
    code, out, _ = evaluate(*judges, "--family", "think", "--json")
    assert code == 0
    assert {name: judge["family"] for name, judge in json.loads(out)["judges"].items()} == {
        "t": "",
        "s": "think",
    }
