"""Voting in a headless Chromium: keys, undo, kills, lost connections, stale pages, tokens."""

from itertools import cycle, islice

import pytest

from tests.unified_reward.arena import sites
from tests.unified_reward.arena.pages import chosen, press, ready, shows
from tests.unified_reward.arena.sites import RATERS, Process, pictures
from unified_reward.io.vote_rows import read_votes


KEYS = {
    "ArrowLeft": "left",
    "2": "right",
    "ArrowDown": "tie",
    "4": "both_bad",
    "5": "cannot_tell",
    "1": "left",
    "ArrowRight": "right",
    "3": "tie",
    "?": "cannot_tell",
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 200])
def test_two_raters_at_once_lose_no_vote_by_a_kill(n, visit, tmp_path):
    arena = Process(tmp_path, pictures(tmp_path, n))
    try:
        pages = [visit(arena.site.page(rater)) for rater in RATERS]
        given = list(islice(cycle(KEYS), n))
        for i, key in enumerate(given):
            for page in pages:
                ready(page, i)
            if i == n // 2:
                arena.kill()
            for page in pages:
                page.keyboard.press(key)
            if i == n // 4:  # both votes are on their way, or just saved
                arena.kill()
                arena.start()
            if i == n // 2:
                for page in pages:
                    shows(page, "#problem", "Your vote is kept here")
                arena.start()
        for page in pages:
            ready(page, n)
            assert f"You gave {n} votes." in page.locator("#end").inner_text()
    finally:
        arena.kill()
    rows = arena.site.rows()
    assert len(rows) == 2 * n
    assert len({(each["id"], each["rater"]) for each in rows}) == 2 * n
    for rater in RATERS:
        own = [each for each in rows if each["rater"] == rater]
        assert chosen(own) == [KEYS[key] for key in given]
    assert {each["shown"] for each in rows} == {"ab", "ba"}
    assert len(read_votes(arena.site.votes)) == 2 * n


def test_one_press_gives_one_vote_and_only_when_it_is_meant(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 5), aspects=("colour",)) as site:
        page = visit(f"{site.url}/icon.svg")
        waiting = []
        page.route(
            "**/media/*", lambda route: waiting.append(route) if not waiting else route.continue_()
        )
        page.goto(site.page("ann"))
        shows(page, "#prompt", "a square")
        page.keyboard.press("1")
        page.locator("#choices button").first.dispatch_event("click")
        assert page.locator("#choices [aria-disabled=false]").count() == 0
        waiting[0].continue_()
        ready(page, 0)
        for keys in ("Control+1", "Alt+ArrowLeft", "Meta+2", "Shift+ArrowDown", "x", "0", " "):
            page.keyboard.press(keys)
        page.get_by_role("radio").first.focus()
        for key in ("5", "Backspace", "u", "ArrowRight"):
            page.keyboard.press(key)
        assert page.get_by_role("radio", name="2 stars").first.is_checked()
        page.keyboard.press("Escape")
        page.get_by_text("Keys:").click()
        page.keyboard.press("1")
        page.get_by_text("Keys:").click()
        assert site.rows() == []
        sent = []
        page.on("request", lambda each: sent.extend([each] * (each.method == "POST")))
        page.keyboard.down("2")
        ready(page, 1)
        page.keyboard.down("2")  # a key that stays down repeats
        page.keyboard.up("2")
        page.wait_for_timeout(200)
        ready(page, 1)
        page.evaluate(
            """() => [1, 2, 3].forEach(() => document.body.dispatchEvent(
                new KeyboardEvent('keydown', {key: '3', bubbles: true})))"""
        )
        ready(page, 2)
        page.locator("#choices button").first.dblclick()
        ready(page, 3)
        assert chosen(site.rows()) == ["right", "tie", "left"]
        assert len(sent) == 3
        assert all(each["seconds"] < 60 and each["aspects"] == {} for each in site.rows())


def test_votes_are_taken_back_one_by_one(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 3)) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        assert page.locator("#undo").is_hidden()
        first = page.locator("#prompt").inner_text()
        press(page, "1", 1)
        assert "Saved. 1 of 3" in page.locator("#status").inner_text()
        second = page.locator("#prompt").inner_text()
        press(page, "2", 2)
        press(page, "Backspace", 1)
        assert "Taken back" in page.locator("#status").inner_text()
        assert page.locator("#prompt").inner_text() == second
        page.locator("#undo").click()
        ready(page, 0)
        assert page.locator("#prompt").inner_text() == first
        for i, key in enumerate(("ArrowRight", "3", "4")):
            press(page, key, i + 1)
        assert page.locator("#end").is_visible()
        press(page, "u", 2)
        press(page, "5", 3)
        assert len(site.rows()) == 9
        kept = sorted(read_votes(site.votes), key=lambda vote: vote.at)
        assert [vote.vote for vote in kept][1:] == ["tie", "cannot_tell"]
        assert page.evaluate("document.activeElement.id") == "end-title"


def test_a_vote_whose_answer_is_lost_is_sent_again_and_counts_once(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 3)) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        lost = []

        def lose(route):
            route.fetch()
            lost.append(route.request.post_data_json)
            route.abort()

        page.route("**/api/vote", lose, times=1)
        page.keyboard.press("1")
        assert "The server does not answer." in shows(page, "#problem", "Your vote is kept here")
        ready(page, 1)
        assert page.locator("#problem").inner_text() == ""
        assert len(lost) == len(site.rows()) == 1

        page.route("**/api/vote", lose)
        page.keyboard.press("2")
        shows(page, "#problem", "Your vote is kept here")
        page.unroute("**/api/vote")
        warnings = []
        page.once("dialog", lambda dialog: warnings.append(dialog.type))
        page.reload()
        ready(page, 2)
        assert warnings == ["beforeunload"]
        assert page.locator("#problem").inner_text() == ""
        assert chosen(site.rows()) == ["left", "right"]

        page.route("**/api/undo", lose, times=1)
        press(page, "u", 1)
        assert "Taken back" in page.locator("#status").inner_text()
        page.route("**/api/undo", lambda route: route.abort(), times=1)
        page.keyboard.press("u")
        assert "Nothing was taken back" in shows(page, "#problem", "Nothing was taken back")
        assert [each["vote"] is None for each in site.rows()] == [False, False, True]


def test_a_stale_page_says_so_and_moves_on(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 3)) as site:
        page = visit(site.page("ann"))
        tab = visit(site.page("ann"), context=page.context)
        # Of a page that is open, Chromium may let the next request past a new route.
        refusals = []
        page.route(
            "**/api/vote",
            lambda route: (
                route.fulfill(status=409, json=refusals.pop()) if refusals else route.continue_()
            ),
        )
        page.reload()
        ready(page, 0)
        ready(tab, 0)
        assert page.locator("#prompt").inner_text() == tab.locator("#prompt").inner_text()
        press(page, "1", 1)
        press(tab, "2", 1)
        assert "in another window; that vote counts" in tab.locator("#problem").inner_text()
        assert page.locator("#prompt").inner_text() == tab.locator("#prompt").inner_text()
        assert chosen(site.rows()) == ["left"]
        message = "this pair is not asked any more"
        refusals.append({"error": {"type": "stale", "message": message}})
        page.keyboard.press("1")
        shows(page, "#problem", f"Not saved: {message}")
        press(page, "2", 2)
        assert page.locator("#problem").inner_text() == ""
        assert chosen(site.rows()) == ["left", "right"]


def test_two_raters_on_one_pair_both_count(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 1)) as site:
        pages = [visit(site.page(rater)) for rater in RATERS]
        for page in pages:
            ready(page, 0)
        for page, key in zip(pages, "12", strict=True):
            page.keyboard.press(key)
        for page in pages:
            ready(page, 1)
            assert "You gave 1 vote." in page.locator("#end").inner_text()
        assert sorted(each["rater"] for each in site.rows()) == ["ann", "bob"]


def test_the_token_leaves_the_address_and_a_wrong_one_is_asked_for(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 2)) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        assert page.url == f"{site.url}/"
        assert page.evaluate("() => [document.cookie, localStorage.length]") == ["", 0]
        page.reload()
        ready(page, 0)
        wrong = visit(f"{site.url}/#wrong")
        assert "the link is not valid" in shows(wrong, "#problem", "link")
        assert wrong.locator("#question").is_hidden()
        wrong.get_by_label("Token").fill(site.tokens.raters["bob"])
        wrong.keyboard.press("Enter")
        ready(wrong, 0)
        press(wrong, "1", 1)
        assert [each["rater"] for each in site.rows()] == ["bob"]


def test_a_vote_that_is_not_yet_saved_stays_that_of_its_rater(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 2)) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        page.route("**/api/vote", lambda route: route.abort())
        page.keyboard.press("1")
        shows(page, "#problem", "Your vote is kept here")
        page.unroute("**/api/vote")
        page.goto(site.page("bob"))  # in the same tab: the address changes behind the # alone
        ready(page, 0)
        assert page.url == f"{site.url}/"
        press(page, "2", 1)
        page.goto(site.page("ann"))
        ready(page, 1)
        rows = {each["rater"]: chosen([each]) for each in site.rows()}
    assert rows == {"ann": ["left"], "bob": ["right"]}
