import pytest

from tests import proven


@pytest.fixture(scope="module", autouse=True)
def empty_charts():
    """Runs draw nothing in the charts of their pages; `test_grpo_page` draws some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unified_reward.report.charts.line_chart", lambda *_, **__: "<svg></svg>")
        yield


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """Models that differ in their weights alone have the same ways of asking: those are trained."""
    with pytest.MonkeyPatch.context() as patch:
        proven.remember(patch, weights=False)
        yield
