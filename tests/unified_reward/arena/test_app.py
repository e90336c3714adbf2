"""An arena over HTTP: what raters get, what they cannot, and that no vote is lost or doubled."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from tests.unified_reward.arena.made import MODELS, item
from tests.unified_reward.media.made import grey_steps
from tests.unified_reward.serve.running import running, until
from unified_reward.arena.app import MAX_BODY, create_app
from unified_reward.arena.items import ArenaInput
from unified_reward.arena.journal import open_votes
from unified_reward.arena.media import MediaStore
from unified_reward.arena.queue import QueueConfig
from unified_reward.arena.service import Arena, ArenaConfig
from unified_reward.arena.tokens import Tokens, open_tokens
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.io.rows import example_row
from unified_reward.io.vote_rows import read_all_votes, read_votes
from unified_reward.media import encode_mp4


class Client(httpx.Client):
    """A browser of a rater, or with the owner's token of the owner."""

    def __init__(self, url, token):
        super().__init__(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def item(self):
        return self.get("/api/item").raise_for_status().json()

    def vote(self, name, choice="left", **fields):
        return self.post("/api/vote", json={"id": name, "choice": choice, "seconds": 2.0, **fields})


@dataclass
class Served:
    """An arena that is being served."""

    url: str
    tokens: Tokens
    service: Arena
    stack: ExitStack

    def client(self, rater):
        return self.open(self.tokens.raters[rater])

    def open(self, token):
        return self.stack.enter_context(Client(self.url, token))


@contextmanager
def arena_of(folder, items, gold=(), *, aspects=(), judge=None, **settings):
    """Serve items to ann and bob; votes go to ``VOTES.jsonl``."""
    queue = QueueConfig(**{"repeat_share": 0.0, **settings})
    config = ArenaConfig("Cats", aspects, queue, judge)
    (folder / "converted").mkdir(exist_ok=True)
    with open_votes(folder / "VOTES.jsonl") as journal, ExitStack() as stack:
        tokens = open_tokens(folder / "tokens.json", ("ann", "bob"))
        store = MediaStore([*items, *gold], tokens.key, folder / "converted")
        given = ArenaInput(tuple(items), tuple(gold))
        service = Arena(given, journal, store, tokens.key, config)
        url = stack.enter_context(running(create_app(service, tokens, is_loopback=True)))
        yield Served(url, tokens, service, stack)


@pytest.fixture
def items(tmp_path):
    return [item(f"i{i}", tmp_path) for i in range(4)]


def kind(response):
    return response.status_code, response.json()["error"]["type"]


def test_a_vote_is_written_by_model_whatever_side_it_stood_on(tmp_path, items):
    with arena_of(tmp_path, items, aspects=("detail",)) as served:
        for rater in ("ann", "bob"):
            client = served.client(rater)
            for _ in items:
                state = client.item()["item"]
                response = client.vote(state["id"], aspects={"detail": [5, 2]})
                assert response.status_code == 200
            assert client.item()["item"] is None
            assert response.json()["progress"] == {
                "done": 4,
                "total": 4,
                "undo": True,
                "all_votes": 4 if rater == "ann" else 8,
                "needed": 8,
            }
    votes = read_votes(tmp_path / "VOTES.jsonl")
    assert len(votes) == 8
    assert {vote.order for vote in votes} == {"ab", "ba"}
    for vote in votes:
        left = vote.vote == ("a" if vote.order == "ab" else "b")
        assert left, "all votes are for the left one"
        assert vote.aspects["detail"] == ((5, 2) if vote.order == "ab" else (2, 5))
        assert (vote.a, vote.b, vote.seconds) == (*MODELS, 2.0)
        assert vote.example.candidates[0].source.name == f"{vote.id}-a.png"


def test_left_is_the_candidate_that_the_vote_then_names(tmp_path, items):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        for choice in ("left", "right", "tie", "both_bad"):
            state = client.item()["item"]
            urls = [state[side][0]["url"] for side in ("left", "right")]
            client.vote(state["id"], choice)
            vote = read_votes(tmp_path / "VOTES.jsonl")[-1]
            visible = [
                f"/media/{served.service.media.name(one)}" for one in vote.example.candidates
            ]
            assert urls == (visible if vote.order == "ab" else visible[::-1])
            if choice in ("left", "right"):
                assert visible["ab".index(vote.vote)] == urls[choice == "right"]
            else:
                assert vote.vote == choice


def test_a_rater_sees_neither_models_nor_paths(tmp_path):
    named = item("i0", tmp_path)
    clips = [tmp_path / f"{model}-clip.mp4" for model in MODELS]
    for path in clips:
        path.write_bytes(encode_mp4(grey_steps(3), 8))
    about = replace(
        named.example,
        id="alpha|beta/i1/0",
        task=Task.VIDEO_GENERATION,
        candidates=tuple(map(Video, clips)),
    )
    gold = replace(named, example=replace(named.example, id="gold/beta"), gold="a")
    responses = []
    with arena_of(
        tmp_path, [named, replace(named, example=about)], [gold], gold_share=0.5, votes=1
    ) as served:
        client = served.client("ann")
        while state := client.item()["item"]:
            parts = [part["url"] for side in ("left", "right") for part in state[side]]
            responses += [client.get("/api/item"), *map(client.get, parts)]
            responses += [client.head(parts[0]), client.vote(state["id"]), client.vote(state["id"])]
        responses += [client.post("/api/undo", json={}), client.get("/api/standings")]
        responses += [client.get("/media/x"), client.get("/"), client.get("/page.css")]
    assert {response.status_code for response in responses} == {200, 403, 404, 409}
    words = (*(model.encode() for model in MODELS), b"i0-", b"clip", b"gold", b"repeat")
    for response in responses:
        seen = repr(response.headers.raw).encode()
        if "text/" not in response.headers.get("content-type", ""):  # pages are ours
            seen += response.content
        assert not [word for word in (*words, str(tmp_path).encode()) if word in seen]
    assert sum(vote.gold is not None for vote in read_all_votes(tmp_path / "VOTES.jsonl")) <= 2


def test_a_vote_that_is_sent_twice_or_by_two_pages_counts_once(tmp_path, items):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        name = client.item()["item"]["id"]
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.vote(name))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200, *[409] * 7]
        assert kind(client.vote(name, "right")) == (409, "duplicate")
        assert client.item()["progress"]["done"] == 1
    assert len(list(read_all_votes(tmp_path / "VOTES.jsonl"))) == 1


def test_two_raters_may_vote_on_one_item_at_once(tmp_path, items):
    with arena_of(tmp_path, items[:1], votes=1) as served:
        ann, bob = map(served.client, ("ann", "bob"))
        first, second = ann.item()["item"], bob.item()["item"]
        assert first["id"] == second["id"]
        assert ann.vote(first["id"]).status_code == 200
        assert bob.vote(second["id"], "tie").status_code == 200
        progress = bob.item()["progress"]
        assert (progress["all_votes"], progress["needed"]) == (1, 1)
    assert len(read_votes(tmp_path / "VOTES.jsonl")) == 2, "the extra vote is kept"


def with_swapped(given):
    """The item with its candidates exchanged."""
    return replace(given, example=replace(given.example, candidates=given.example.candidates[::-1]))


def test_votes_on_something_else_under_the_same_id_are_refused(tmp_path, items, monkeypatch):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        name = client.item()["item"]["id"]
        client.vote(name)
    [voted] = read_votes(tmp_path / "VOTES.jsonl")
    [known] = [each for each in items if each.id == voted.id]
    reworded = replace(known, example=replace(known.example, prompt="another"))
    for other in (with_swapped(known), reworded):
        with pytest.raises(ConfigError, match="1 vote is on other prompts"):
            arena_of(tmp_path, [other]).__enter__()
    monkeypatch.chdir(tmp_path)
    relative = tuple(Image(Path(one.source.name)) for one in known.example.candidates)
    moved = replace(known, example=replace(known.example, candidates=relative))
    with arena_of(tmp_path, [moved]) as served:
        assert served.client("ann").item()["progress"]["done"] == 1
    row = json.loads((tmp_path / "VOTES.jsonl").read_text("utf-8"))
    bare = {key: value for key, value in row.items() if key not in ("candidates", "context")}
    (tmp_path / "VOTES.jsonl").write_text(json.dumps(bare) + "\n", "utf-8")
    with arena_of(tmp_path, [known]) as served:
        assert served.client("ann").item()["progress"]["done"] == 1


def test_an_old_page_never_votes_on_something_else_than_it_shows(tmp_path, items):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        name = client.item()["item"]["id"]
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        assert client.vote(name).status_code == 200, "a restart alone changes nothing"
        name = client.item()["item"]["id"]
    [voted] = read_votes(tmp_path / "VOTES.jsonl")
    for changed in (items[::-1], items, items[:1]):
        swapped = [one if one.id == voted.id else with_swapped(one) for one in changed]
        is_same = changed is items
        with arena_of(tmp_path, changed if is_same else swapped, seed=is_same) as served:
            client = served.client("ann")
            assert kind(client.vote(name)) == (409, "stale")
            if changed is items:
                assert client.item()["item"]["id"] != name
    assert len(read_votes(tmp_path / "VOTES.jsonl")) == 1


def test_undo_goes_back_step_by_step_and_stays_after_a_restart(tmp_path, items):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        names = []
        for _ in range(2):
            names.append(client.item()["item"]["id"])
            client.vote(names[-1])
        undone = client.post("/api/undo", json={}).json()
        assert (undone["item"]["id"], undone["progress"]["done"]) == (names[1], 1)
        assert client.item()["item"]["id"] == names[1]
        assert client.post("/api/undo", json={}).json()["item"]["id"] == names[0]
        assert kind(client.post("/api/undo", json={})) == (409, "nothing_to_undo")
        assert client.vote(names[0], "right").status_code == 200
    with arena_of(tmp_path, items) as served:
        assert served.client("ann").item()["progress"]["done"] == 1
    rows = list(read_all_votes(tmp_path / "VOTES.jsonl"))
    assert [row.vote is None for row in rows] == [False, False, True, True, False]
    assert len(read_votes(tmp_path / "VOTES.jsonl")) == 1


def test_gold_items_and_repeats_are_marked_in_the_file_alone(tmp_path):
    items = [item(f"i{i}", tmp_path) for i in range(30)]
    gold = [item(f"g{i}", tmp_path, gold="b") for i in range(20)]
    settings = {"gold_share": 0.3, "repeat_share": 0.3, "repeat_gap": 3, "votes": 1}
    with arena_of(tmp_path, items, gold, **settings) as served:
        client = served.client("ann")
        visible = []
        while state := client.item()["item"]:
            visible.append(state)
            client.vote(state["id"])
    votes = {vote.id: vote for vote in read_votes(tmp_path / "VOTES.jsonl")}
    assert len({tuple(state) for state in visible}) == 1, "all have the same keys"
    repeats = [vote for vote in votes.values() if vote.repeats]
    assert len(repeats) >= 3
    assert sum(vote.gold == "b" for vote in votes.values()) >= 3
    for repeat in repeats:
        assert repeat.id == f"{repeat.repeats} #2"
        assert {repeat.order, votes[repeat.repeats].order} == {"ab", "ba"}
        assert repeat.example.candidates == votes[repeat.repeats].example.candidates


def test_a_broken_video_leaves_the_queue_and_the_rater_gets_another(tmp_path, items):
    path = tmp_path / "broken.mp4"
    path.write_bytes(encode_mp4(grey_steps(9), 8)[:-200])
    clip = replace(
        items[0].example, id="clip", task=Task.VIDEO_GENERATION, candidates=(Video(path),) * 2
    )
    missing = replace(items[0].example, id="missing", candidates=(Image(tmp_path / "no.png"),) * 2)
    broken = [replace(items[0], example=example) for example in (clip, missing)]
    with arena_of(tmp_path, [*broken, *items], votes=1) as served:
        client = served.client("ann")
        state = client.item()
        assert (state["progress"]["total"], state["progress"]["needed"]) == (4, 4)
        assert state["item"]["prompt"] == "picture i0"
        assert list(served.service.broken) == ["clip", "missing"]
        assert "broken.mp4" in served.service.broken["clip"]
        name = served.service.media.name(Video(path))
        assert kind(client.get(f"/media/{name}")) == (404, "broken")


def test_the_owner_sees_standings_that_follow_the_votes(tmp_path, items):
    """The judge is for beta throughout; people vote for alpha, and one item is broken."""
    (tmp_path / "i3-a.png").write_bytes(b"no image")
    judge = {pair.id: 0.2 for pair in items}
    with arena_of(tmp_path, items, judge=judge, votes=1) as served:
        owner, client = served.open(served.tokens.owner), served.client("ann")
        before = owner.get("/api/standings").json()["standings"]
        assert (before["votes"]["n"], before["progress"]["needed"]) == (0, 4)
        while state := client.item()["item"]:
            urls = [f"/media/{served.service.media.name(Image(path))}" for path in alphas(tmp_path)]
            client.vote(state["id"], "left" if state["left"][0]["url"] in urls else "right")
        after = owner.get("/api/standings").json()
    standings = after["standings"]
    assert (after["title"], standings["votes"]["a"], standings["votes"]["n"]) == ("Cats", 3, 3)
    assert standings["progress"] == {"votes": 3, "items": 3, "complete": 3, "needed": 3}
    strengths = {model: row["strength"] for model, row in standings["models"].items()}
    assert strengths["alpha"] > 0 > strengths["beta"]
    assert standings["judge"]["accuracy"]["value"] == 0
    assert [row["id"] for row in after["broken"]] == ["i3"]
    assert set(after["media"]) == {"i0", "i1", "i2"}
    name = served.service.media.name(Image(tmp_path / "i0-b.png"))
    assert after["media"]["i0"]["b"] == [{"kind": "image", "url": f"/media/{name}"}]


def alphas(folder):
    """Pictures of the first model."""
    return sorted(folder.glob("*-a.png"))


def test_a_full_disk_is_told_and_the_vote_can_be_sent_again(tmp_path, items, monkeypatch):
    with arena_of(tmp_path, items) as served:
        client = served.client("ann")
        name = client.item()["item"]["id"]

        def full(_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            response = client.vote(name)
            assert kind(response) == (503, "not_written")
            assert str(tmp_path) not in response.text
        assert client.item()["item"]["id"] == name
        assert client.vote(name).status_code == 200
    assert len(list(read_all_votes(tmp_path / "VOTES.jsonl"))) == 1


GOOD = {"id": "x", "choice": "left", "seconds": 1.0}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({**GOOD, "choice": "best"}, (422, "invalid")),
        ({**GOOD, "rater": "bob"}, (422, "invalid")),
        ({**GOOD, "seconds": -1}, (422, "invalid")),
        ({**GOOD, "seconds": "1"}, (422, "invalid")),
        ({**GOOD, "aspects": {"detail": [0, 5]}}, (422, "invalid")),
        ({**GOOD, "aspects": {"detail": [5]}}, (422, "invalid")),
        ({**GOOD, "aspects": {"\ud800": [5, 5]}}, (422, "invalid")),
        ({"id": "x", "\ud800": 1}, (422, "invalid")),
        ([], (422, "invalid")),
        ({**GOOD, "id": "x" * MAX_BODY}, (413, "too_large")),
        (GOOD, (409, "stale")),
        ({**GOOD, "id": "\ud800"}, (409, "stale")),
    ],
)
def test_a_body_that_is_no_vote_is_refused_with_a_reason(tmp_path, items, body, expected):
    with arena_of(tmp_path, items, aspects=("detail",)) as served:
        client = served.client("ann")
        content = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        response = client.post("/api/vote", content=content, headers=headers)
        assert kind(response) == expected
    assert not (tmp_path / "VOTES.jsonl").exists()


def test_requests_of_others_are_refused(tmp_path, items):
    with arena_of(tmp_path, items) as served:
        for token in ("x", served.tokens.key):
            client = served.open(token)
            assert kind(client.get("/api/item")) == (401, "unauthorised")
            assert kind(client.vote("x")) == (401, "unauthorised")
            assert kind(client.get("/api/standings")) == (401, "unauthorised")
        assert kind(httpx.get(f"{served.url}/api/item")) == (401, "unauthorised")
        client = served.client("ann")
        assert kind(client.get("/api/standings")) == (403, "not_owner")
        assert kind(served.open(served.tokens.owner).get("/api/item")) == (401, "unauthorised")
        assert kind(client.get("/", headers={"Host": "evil.example"})) == (421, "wrong_host")
        evil = {"Origin": "http://evil.example"}
        assert kind(client.post("/api/undo", json={}, headers=evil)) == (403, "cross_origin")
        own = {"Origin": served.url}
        assert kind(client.post("/api/undo", json={}, headers=own)) == (409, "nothing_to_undo")
        chunks = client.post("/api/undo", content=iter([b"{}"]))
        assert kind(chunks) == (411, "length_required")
        assert kind(client.get("/nothing")) == (404, "no_route")
        assert kind(client.get("/media/..%2Ftokens.json")) == (404, "no_route")
        assert kind(client.delete("/api/item")) == (411, "length_required")
        page = client.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/api/item").headers["cache-control"] == "no-store"


def test_media_are_sent_in_parts_where_a_player_asks_for_them(tmp_path, items):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_mp4(grey_steps(9), 8))
    clip = replace(
        items[0].example, id="clip", task=Task.VIDEO_GENERATION, candidates=(Video(path),) * 2
    )
    with arena_of(tmp_path, [replace(items[0], example=clip)]) as served:
        link = served.client("ann").item()["item"]["left"][0]["url"]
        whole = httpx.get(served.url + link)
        part = httpx.get(served.url + link, headers={"Range": "bytes=4-7"})
        assert whole.headers["content-type"] == "video/mp4"
        assert (part.status_code, part.content) == (206, whole.content[4:8])
        assert part.content == b"ftyp"
        assert "max-age" in whole.headers["cache-control"]


@contextmanager
def started(folder, *options):
    """The command in a process of its own; yields process, URL and the link tokens by name."""
    command = [sys.executable, "-m", "unified_reward", "arena", *options, "--port", "0"]
    with (folder / "err").open("a") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True, env=os.environ
        )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        until(lambda: process.poll() is not None or any("standings" in line for line in lines), 60)
        assert process.poll() is None, (folder / "err").read_text("utf-8")
        links = dict(re.fullmatch(r"([^:]+): \S+#(\S+)\n", line).groups() for line in lines)
        yield process, re.search(r"http://[^/]+", lines[0])[0], links
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def keep_voting(url, token, acknowledged):
    """Vote until nothing is left or the server is gone; retries as a page does."""
    with Client(url, token) as client:
        try:
            while state := client.item()["item"]:
                if client.vote(state["id"], "right").status_code == 200:
                    acknowledged.append(state["id"])
        except httpx.HTTPError:
            return


def test_two_raters_vote_over_a_kill_and_every_acknowledged_vote_is_there_once(tmp_path):
    rows = [example_row(item(f"i{i}", tmp_path).example, tmp_path) for i in range(40)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "records.jsonl").write_text(text, "utf-8")
    options = ("records.jsonl", "--out", "VOTES.jsonl", "--repeat", "0")
    out, acknowledged = tmp_path / "VOTES.jsonl", []
    links = {}
    for is_killed in (True, False):
        raters = () if links else ("--rater", "ann", "--rater", "bob")
        with started(tmp_path, *options, *raters) as (process, url, found):
            assert not links or links == found, "links stay after a restart"
            links = found
            threads = [
                threading.Thread(target=keep_voting, args=(url, links[name], acknowledged))
                for name in ("ann", "bob")
            ]
            for thread in threads:
                thread.start()
            if is_killed:
                until(lambda: len(acknowledged) >= 25)
                process.kill()
            for thread in threads:
                thread.join(60)
            if not is_killed:
                with Client(url, links["standings, for you alone"]) as owner:
                    assert owner.get("/api/standings").status_code == 200
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0, "a signal ends it in order"
    votes = list(read_all_votes(out))
    assert len(votes) == 80
    assert len({vote.key for vote in votes}) == 80
    assert 25 <= len(acknowledged) <= 80
    # A vote that was written and not acknowledged, one of each rater at most, is kept as well.
    assert len(acknowledged) >= 78
    assert Path(f"{out}.tokens.json").stat().st_mode & 0o077 == 0
