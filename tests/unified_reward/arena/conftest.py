"""A headless Chromium for the pages of the arena."""

import contextlib
import os
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; tests that need it are skipped where it or playwright is absent."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    arguments = ["--no-sandbox"] * (os.geteuid() == 0)
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=arguments)


@pytest.fixture
def visit(browser):
    """Open a link; nothing may come from elsewhere, and no script may fail."""
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
            page.set_default_timeout(30_000)
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
