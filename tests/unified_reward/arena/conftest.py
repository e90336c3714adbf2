"""Pages of the arena in a headless Chromium."""

import contextlib

import pytest


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
