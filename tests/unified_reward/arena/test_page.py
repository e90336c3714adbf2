"""The pages of the arena in a headless Chromium: votes, keys, media, lost connections, standings."""

import contextlib
import os
import shutil
import time
from itertools import cycle, islice

import pytest

from tests.unified_reward.arena import sites
from tests.unified_reward.arena.sites import MODELS, RATERS, Process, clip, picture, pictures, row
from unified_reward.io.vote_rows import read_votes


CHROMIUM = shutil.which("chromium")
MARKUP = "<img src=x onerror=alert(1)>"
"""Text that must stay text wherever it is shown."""
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
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox"] * (os.geteuid() == 0)
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def visit(browser):
    """Open a link; nothing may come from elsewhere, no script may fail, raters learn no model."""
    with contextlib.ExitStack() as closing:
        problems = []

        def answer(dialog):
            problems.extend([dialog.message] * (dialog.type != "beforeunload"))
            dialog.accept()

        def open_page(link, width=1400, context=None, **settings):
            if context is None:
                viewport = {"width": width, "height": 800}
                context = browser.new_context(viewport=viewport, **settings)
                closing.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", answer)
            page.on(
                "console",
                lambda line: "Security Policy" in line.text and problems.append(line.text),
            )
            origin = link[: link.index("/", 8)]
            page.on(
                "request",
                lambda sent: sent.url.startswith(origin) or problems.append(sent.url),
            )
            page.goto(link)
            return page

        yield open_page
        assert not problems


def until(page, expression, argument=None):
    """Wait until an expression is true in a page."""
    page.wait_for_function(expression, arg=argument)


def ready(page, done):
    """Wait until a number of votes is saved, and the next one can be given or none is left."""
    until(
        page,
        """done => document.querySelector('#progress').ariaValueNow === String(done) &&
            (document.querySelector('#end:not([hidden])') ||
            document.querySelector('#choices [aria-disabled=false]'))""",
        done,
    )


def press(page, key, done):
    """Vote by a key, and wait for the next pair."""
    page.keyboard.press(key)
    ready(page, done)


def shows(page, selector, words):
    """Wait for words in an element; returns all of its text."""
    until(
        page,
        "([s, w]) => [...document.querySelectorAll(s)].some((e) => e.innerText.includes(w))",
        [selector, words],
    )
    return page.locator(selector).first.inner_text()


def chosen(rows):
    """Choices of the rows of a journal, by side as it was seen."""
    left = {"ab": "a", "ba": "b"}
    return [
        ("left" if vote == left[each["shown"]] else "right") if vote in ("a", "b") else vote
        for each in rows
        for vote in [each["vote"]]
    ]


# ------------------------------------------------------------------------------------------- votes


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
            if i == n // 4:  # killed while both votes are on their way
                arena.kill()
            if i in (n // 4, n // 2):
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
        held = []
        page.route("**/media/*", lambda route: held.append(route) if not held else route.continue_())
        page.goto(site.page("ann"))
        shows(page, "#prompt", "a square")
        page.keyboard.press("1")
        page.locator("#choices button").first.dispatch_event("click")
        assert page.locator("#choices [aria-disabled=false]").count() == 0
        held[0].continue_()
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
        page.keyboard.down("2")
        for _ in range(5):
            page.keyboard.down("2")  # a key that is held repeats
        page.keyboard.up("2")
        ready(page, 1)
        page.evaluate(
            """() => [1, 2, 3].forEach(() => document.body.dispatchEvent(
                new KeyboardEvent('keydown', {key: '3', bubbles: true})))"""
        )
        ready(page, 2)
        page.locator("#choices button").first.dblclick()
        ready(page, 3)
        assert chosen(site.rows()) == ["right", "tie", "left"]
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

        page.route("**/api/vote", lambda route: route.abort())
        page.keyboard.press("2")
        shows(page, "#problem", "Your vote is kept here")
        assert len(site.rows()) == 1
        page.unroute("**/api/vote")
        warnings = []
        page.once("dialog", lambda dialog: warnings.append(dialog.type))
        page.reload()
        ready(page, 2)
        assert warnings == ["beforeunload"]
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
        ready(page, 0)
        ready(tab, 0)
        assert page.locator("#prompt").inner_text() == tab.locator("#prompt").inner_text()
        press(page, "1", 1)
        press(tab, "2", 1)
        assert "in another window; that vote counts" in tab.locator("#problem").inner_text()
        assert page.locator("#prompt").inner_text() == tab.locator("#prompt").inner_text()
        assert chosen(site.rows()) == ["left"]
        body = {"error": {"type": "stale", "message": "this pair is not asked any more"}}
        page.route("**/api/vote", lambda route: route.fulfill(status=409, json=body))
        page.keyboard.press("1")
        shows(page, "#problem", "Not saved: this pair is not asked any more")
        page.unroute("**/api/vote")
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


# ------------------------------------------------------------------------------------------- media

BOXES = """() => ['#stage .left', '#stage .right', '#choices']
    .map((s) => document.querySelector(s).getBoundingClientRect().toJSON())"""


def test_pairs_are_side_by_side_or_stacked_with_the_choices_in_reach(visit, tmp_path):
    files = [picture(tmp_path / model / "large.png", 200, side=600) for model in MODELS]
    rows = [*pictures(tmp_path, 1), row(1, *files, prompt=f"{MARKUP} " * 40)]
    with sites.site(tmp_path, rows) as site:
        for rater, width in zip(RATERS, (1400, 360), strict=True):
            page = visit(site.page(rater), width=width)
            ready(page, 0)
            for done in range(2):
                left, right, choices = page.evaluate(BOXES)
                assert page.evaluate("() => document.documentElement.scrollWidth") == width
                assert choices["bottom"] == 800
                assert choices["height"] < 150
                if width == 1400:
                    assert left["top"] == right["top"]
                    assert left["right"] < right["left"]
                    assert left["width"] == right["width"] > 500
                    assert done or right["bottom"] < choices["top"]
                else:
                    assert left["bottom"] < right["top"]
                    assert left["left"] == right["left"]
                assert not any(name in page.content() for name in MODELS)
                press(page, "3", done + 1)
        assert page.locator("img[src=x]").count() == 0


def test_tiny_pictures_are_enlarged_crisp_and_pictures_fill_the_screen(visit, tmp_path):
    files = [picture(tmp_path / model / "large.png", 200, side=600) for model in MODELS]
    with sites.site(tmp_path, [*pictures(tmp_path, 1), row(1, *files)]) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        rendering = "() => getComputedStyle(document.querySelector('#stage img')).imageRendering"
        assert page.evaluate(rendering) == "pixelated"
        page.get_by_role("button", name="Enlarge: A").press("Enter")
        page.keyboard.press("ArrowRight")
        enlarged = page.locator("#enlarged img")
        assert page.locator("#enlarged-name").inner_text() == "B"
        assert enlarged.bounding_box()["width"] > 1300
        b = page.locator("#stage .right img").get_attribute("src")
        assert enlarged.get_attribute("src").endswith(b)
        page.keyboard.press("1")
        page.keyboard.press("Escape")
        assert page.locator("#enlarged").is_hidden()
        focused = page.evaluate("document.activeElement.ariaLabel")
        assert (focused, site.rows()) == ("Enlarge: A", [])
        press(page, "1", 1)
        assert page.evaluate(rendering) == "auto"


TIMES = "() => [...document.querySelectorAll('video')].map((video) => video.currentTime)"
PAUSED = "() => [...document.querySelectorAll('video')].map((video) => video.paused)"
APART = """() => {
    const [a, b] = [...document.querySelectorAll('video')].map((video) => video.currentTime);
    return Math.abs(a - b);
}"""

DISTURBED = """() => {
    const [a, b] = document.querySelectorAll('video');
    if (a.currentTime < 0.1 || a.currentTime > 0.5) return false;
    b.currentTime += 0.4;
    return true;
}"""


def clips(folder, n=1):
    """A record of two clips of 2 s."""
    files = [clip(folder / f"{model}.mp4", 20, level=90 + 90 * i) for i, model in enumerate(MODELS)]
    return [row(f"clip {i}", *files, task="video_generation") for i in range(n)]


@pytest.mark.slow
def test_clips_play_in_step_over_their_ends(visit, tmp_path):
    with sites.site(tmp_path, clips(tmp_path)) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        assert page.evaluate("() => [...document.querySelectorAll('video')].every((v) => v.muted)")
        until(page, "() => document.querySelector('video').currentTime > 0.3")
        apart, times = [], []
        for _ in range(30):
            apart.append(page.evaluate(APART))
            times.append(page.evaluate(TIMES)[0])
            page.wait_for_timeout(100)
        assert max(apart) < 0.1
        assert any(b < a for a, b in zip(times, times[1:], strict=False)), "begins again"
        until(page, DISTURBED)
        assert page.evaluate(APART) > 0.2
        page.wait_for_timeout(2500)
        assert max(page.evaluate(APART) for _ in range(5)) < 0.1

        page.keyboard.press("Space")
        until(page, f"() => ({PAUSED})().every(Boolean)")
        assert page.get_by_role("button", name="Play").is_visible()
        page.get_by_label("Position in the videos").fill("1.5")
        until(page, f"() => ({TIMES})().every((time) => Math.abs(time - 1.5) < 0.001)")
        page.wait_for_timeout(300)
        assert page.evaluate(TIMES) == [1.5, 1.5]
        page.get_by_role("button", name="Play").click()
        until(page, f"() => ({PAUSED})().every((paused) => !paused)")
        press(page, "2", 1)
        assert chosen(site.rows()) == ["right"]


def test_clips_rest_where_motion_is_reduced(visit, tmp_path):
    with sites.site(tmp_path, clips(tmp_path, 2)) as site:
        page = visit(site.page("ann"), reduced_motion="reduce")
        ready(page, 0)
        page.wait_for_timeout(400)
        assert page.evaluate(TIMES) == [0, 0]
        page.keyboard.press("Space")
        until(page, f"() => ({TIMES})().every((time) => time > 0.1)")
        press(page, "1", 1)


def test_a_medium_that_the_browser_cannot_show_is_told(visit, tmp_path):
    with sites.site(tmp_path, clips(tmp_path, 2)) as site:
        page = visit(f"{site.url}/icon.svg")
        broken = []

        def spoil(route):
            url = route.request.url
            if not broken:
                broken.append(url)
            if url in broken:
                route.fulfill(body=b"no video", content_type="video/webm")
            else:
                route.continue_()

        page.route("**/media/*", spoil)
        page.goto(site.page("ann"))
        words = shows(page, ".failed[role=alert]:not(#problem)", "cannot be shown")
        assert "This video (A) cannot be shown" in words
        names = page.locator("#choices [aria-disabled=false]").all_inner_texts()
        assert [name.split(" 5")[0].strip() for name in names] == ["Cannot tell"]
        page.keyboard.press("1")
        assert site.rows() == []
        press(page, "5", 1)
        shows(page, ".failed[role=alert]:not(#problem)", "cannot be shown")
        page.unroute("**/media/*")
        page.get_by_role("button", name="Load again").click()
        until(page, "() => document.querySelectorAll('#choices [aria-disabled=false]').length === 5")
        press(page, "1", 2)
        assert chosen(site.rows()) == ["cannot_tell", "left"]


def test_media_wait_for_a_server_that_is_away(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 1)) as site:
        page = visit(f"{site.url}/icon.svg")
        page.route("**/media/*", lambda route: route.abort())
        page.goto(site.page("ann"))
        shows(page, "#prompt", "a square")
        page.wait_for_timeout(300)
        assert page.locator(".failed[role=alert]:not(#problem)").count() == 0
        page.unroute("**/media/*")
        ready(page, 0)
        press(page, "1", 1)


def kinds(folder):
    """Records of each kind of question, with a broken video that is never asked."""
    image = picture(folder / "source.png", 100)
    video = clip(folder / "clip.mp4", 20)
    edits = [picture(folder / model / "edit.png", 150) for model in MODELS]
    cut = folder / "cut.mp4"
    cut.write_bytes((folder / "clip.mp4").read_bytes()[:300])
    answers = {"text": f"  one\n\ttwo {MARKUP}"}, {"text": "ثلاثة"}
    return [
        *pictures(folder, 1),
        *clips(folder),
        row("edit", *edits, task="image_editing", context=[image]),
        row("asked", *answers, task="image_understanding", context=[image], prompt="How many?"),
        row("seen", *answers, task="video_understanding", context=[video], prompt="How many?"),
        row("cut", {"video": str(cut)}, video, task="video_generation"),
    ]


def test_answers_and_edits_are_beside_what_they_are_about(visit, tmp_path):
    seen = {}
    with sites.site(tmp_path, kinds(tmp_path)) as site:
        page = visit(site.page("ann"))
        for done in range(5):
            ready(page, done)
            boxes = page.evaluate(
                "() => [...document.querySelectorAll('figure')].map((e) => [e.className, e.offsetTop])"
            )
            label = page.locator("#prompt-label").text_content()
            seen[label, page.locator("#stage video").count()] = dict(boxes)
            if label == "Question":
                texts = page.locator(".answer").evaluate_all(
                    "all => all.map((e) => [e.innerText, getComputedStyle(e).direction])"
                )
                assert sorted(texts) == [[f"  one\n\ttwo {MARKUP}", "ltr"], ["ثلاثة", "rtl"]]
            press(page, "3", done + 1)
    assert {key: set(places) for key, places in seen.items()} == {
        ("Prompt", 0): {"left", "right"},
        ("Prompt", 2): {"left", "right"},
        ("Instruction", 0): {"context", "left", "right"},
        ("Question", 0): {"context", "left", "right"},
        ("Question", 1): {"context", "left", "right"},
    }
    assert all(len(set(places.values())) == 1 for places in seen.values())


def test_stars_of_both_sides_are_kept_and_half_of_them_is_told(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 3), aspects=("colour", "shape"), seed=1) as site:
        page = visit(site.page("ann"), width=360)
        given = []
        for done in range(3):
            ready(page, done)
            given.append([(5, 2), (1, 4), (3, 1)][done])
            for side, stars in zip("AB", given[-1], strict=True):
                group = page.get_by_role("radiogroup", name=f"colour, {side}")
                group.get_by_role("radio").nth(stars - 1).locator("..").click()
            page.get_by_role("radiogroup", name="shape, B").get_by_role("radio").nth(1).focus()
            page.keyboard.press("Space")
            assert page.get_by_text("Give A stars too, or they do not count.").is_visible()
            page.keyboard.press("Escape")
            press(page, "1", done + 1)
        rows = site.rows()
    assert {each["shown"] for each in rows} == {"ab", "ba"}, "another seed is needed"
    for (left, right), each in zip(given, rows, strict=True):
        stars = [left, right] if each["shown"] == "ab" else [right, left]
        assert each["aspects"] == {"colour": stars}


# --------------------------------------------------------------------------------------- standings


def test_standings_follow_the_votes_while_they_are_seen(visit, tmp_path):
    rows = kinds(tmp_path)
    judge = {each["id"]: 0.9 if i % 2 else 0.2 for i, each in enumerate(rows)}
    with sites.site(tmp_path, rows, judge=judge, title=f"Squares {MARKUP}") as site:
        page = visit(site.page(None), width=360)
        assert "0 of 12 votes" in shows(page, "#summary", "votes")
        rater = visit(site.page("ann"))
        for done in range(5):
            ready(rater, done)
            left = rater.locator("#stage .left").inner_html()
            press(rater, "1" if done % 2 else "2", done + 1)
            assert left
        assert "5 of 10 votes" in shows(page, "#summary", "5 of 10")
        words = shows(page, "#sections", "Krippendorff")
        for name in (*MODELS, "ann"):
            assert name in words
        assert "one is better" in page.locator("#votes").inner_text()
        assert "cut" in page.locator("#broken").inner_text()
        assert page.evaluate("() => document.documentElement.scrollWidth") == 360
        hide = """is => {
            Object.defineProperty(document, 'hidden', {value: is, configurable: true});
            document.dispatchEvent(new Event('visibilitychange'));
        }"""
        sent = []
        page.evaluate(hide, True)
        page.on("request", lambda request: sent.append(request.url))
        page.wait_for_timeout(2500)
        assert sent == []
        page.evaluate(hide, False)
        until(page, "() => performance.getEntriesByType('resource').length > 0")
        page.wait_for_timeout(200)
        assert len(sent) == 1
        refused = visit(f"{site.url}/standings#{site.tokens.raters['ann']}")
        assert "only the owner" in shows(refused, "#problem", "owner")
        assert refused.locator("#sections").is_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 360])
def test_axe_finds_nothing_serious(scheme, width, visit, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def found(page):
        response = axe.run(page, options={}).response
        assert len(response["passes"]) > 10
        return [
            (each["id"], node["html"])
            for each in response["violations"]
            for node in each["nodes"]
            if each["impact"] in ("serious", "critical")
        ]

    rows = kinds(tmp_path)
    judge = {each["id"]: 0.9 for each in rows}
    with sites.site(tmp_path, rows, aspects=("colour",), judge=judge) as site:
        page = visit(site.page("ann"), width=width, color_scheme=scheme)
        labels = set()
        for done in range(5):
            ready(page, done)
            labels.add(page.locator("#prompt-label").text_content())
            assert found(page) == []
            if page.locator("button.view").count():
                page.locator("button.view").first.click()
                assert found(page) == []
                page.keyboard.press("Escape")
            press(page, "2", done + 1)
        assert labels == {"Prompt", "Instruction", "Question"}
        assert page.locator("#end").is_visible()
        assert found(page) == []
        page.route("**/api/undo", lambda route: route.abort())
        page.keyboard.press("u")
        shows(page, "#problem", "Nothing was taken back")
        assert found(page) == []
        standings = visit(site.page(None), width=width, color_scheme=scheme)
        shows(standings, "#sections", "Where they disagree most")
        assert found(standings) == []
        refused = visit(f"{site.url}/standings#wrong", width=width, color_scheme=scheme)
        shows(refused, "#problem", "link")
        assert found(refused) == []
