"""The owner's page in a headless Chromium, and the accessibility of both pages."""

import pytest

from tests.unified_reward.arena import sites
from tests.unified_reward.arena.pages import press, ready, shows
from tests.unified_reward.arena.sites import MARKUP, MODELS, kinds


@pytest.mark.slow
def test_standings_follow_the_votes_while_they_are_seen(visit, tmp_path):
    rows = kinds(tmp_path)
    judge = {each["id"]: 0.9 if i % 2 else 0.2 for i, each in enumerate(rows)}
    with sites.site(tmp_path, rows, judge=judge, title=f"Squares {MARKUP}") as site:
        page = visit(site.page(None), width=360)
        assert "0 of 12 votes" in shows(page, "#summary", "votes")
        rater = visit(site.page("ann"))
        for done in range(5):
            ready(rater, done)
            press(rater, "1" if done % 2 else "2", done + 1)
        assert "5 of 10 votes" in shows(page, "#summary", "5 of 10")
        strengths = page.locator("#models tbody th").all_inner_texts()
        assert sorted(strengths) == sorted(MODELS)
        assert page.locator("#models .dot").count() == 2
        assert page.locator("#votes dd").first.inner_text() == "5 100 %"
        assert page.locator("#raters tbody tr").inner_text().split()[:2] == ["ann", "5"]
        other = {
            each["id"] for each in site.rows() if (judge[each["id"]] > 0.5) != (each["vote"] == "a")
        }
        assert page.locator(".disagreements > li").count() == len(other) > 0
        assert page.locator(".disagreements figure").count() >= 2 * len(other)
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
        with page.expect_request("**/api/standings"):
            page.evaluate(hide, False)
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
        shows(standings, "#sections", "Where they prefer different ones")
        assert found(standings) == []
        refused = visit(f"{site.url}/standings#wrong", width=width, color_scheme=scheme)
        shows(refused, "#problem", "link")
        assert found(refused) == []
