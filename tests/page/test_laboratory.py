"""The toy laboratory in a real browser."""

import pytest
from playwright.sync_api import expect

from digon.page.build import build

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(toy_run, visit):
    """Opens the page of toy studies."""
    return visit(build(toy_run.path).as_uri())


def test_a_control_moves_the_data_and_not_the_axes(opened):
    tab = opened()
    tab.wait_for_selector(".figure .bars path")
    bars, ticks = ".figure .bars path", ".figure .ytick text"
    before, axis = tab.locator(bars).nth(1).get_attribute("d"), tab.locator(ticks).all_inner_texts()
    tab.locator(".slider input").fill("4")
    expect(tab.locator(".slider output")).to_have_text("0.9")
    tab.wait_for_timeout(200)
    assert tab.locator(bars).nth(1).get_attribute("d") != before
    assert tab.locator(ticks).all_inner_texts() == axis
    tab.select_option(".figure-controls select, section .controls select", "pairs")
    expect(tab.locator(".slider output")).to_have_text("0.9")


def test_every_figure_says_what_to_see_and_what_it_does_not_show(opened):
    text = opened().inner_text("section.panel")
    assert "What you should see. A digon." in text
    assert "What this does not show. Nothing else." in text


def test_claims_are_filtered_and_found(opened):
    tab = opened("#view=claims")
    assert tab.locator("tbody tr").count() == 3
    assert "≥ 1" in tab.inner_text("tbody tr:first-child")
    tab.click("a:has-text('differs')")
    expect(tab.locator("tbody tr")).to_have_count(1)
    tab.click(".controls a:has-text('all')")
    tab.fill("#search", "E1.3")
    expect(tab.locator("tbody tr")).to_have_count(1)


def test_hostile_text_is_shown_and_never_run(opened):
    for view in ("figures", "claims"):
        tab = opened(f"#view={view}")
        tab.wait_for_timeout(150)
        assert tab.evaluate("window.pwned") is None
        assert "<script>window.pwned=1</script>" in tab.inner_text("body")


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows(opened, width):
    for view in ("figures", "claims", "run"):
        tab = opened(f"#view={view}", width)
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_an_animation_plays_and_stops(opened):
    tab = opened()
    tab.click("button:has-text('play')")
    expect(tab.locator(".slider output")).not_to_have_text("0.1")
    tab.click("button:has-text('stop')")
    expect(tab.locator("button:has-text('play')")).to_have_count(1)
