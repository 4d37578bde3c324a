import pytest
from playwright.sync_api import expect

from digon.page.build import build

pytestmark = pytest.mark.browser
UNIT = "toy/layers.0.mlp.act#1"


@pytest.fixture
def opened(finished_run, visit):
    """Opens the page of an audit."""
    return visit(build(finished_run.path).as_uri())


def test_a_unit_is_found_opened_and_shared(opened):
    tab = opened()
    tab.fill("#search", "act#1")
    tab.click(f"#found a:has-text('{UNIT}')")
    tab.wait_for_selector("#unit-name")
    assert tab.inner_text("#unit-name") == UNIT
    shared = opened(tab.evaluate("location.hash"))
    assert shared.inner_text("#unit-name") == UNIT
    assert shared.inner_text("main") == tab.inner_text("main")


def test_search_reaches_explanations(opened):
    tab = opened()
    tab.fill("#search", "pwned")
    assert tab.locator("#found a").count() == 4


def test_hostile_text_is_shown_and_never_run(opened):
    for view in ("overview", "map", "unit", "dictionary", "checks", "run"):
        tab = opened(f"#view={view}")
        tab.wait_for_timeout(150)
        assert tab.evaluate("window.pwned") is None
        if view != "map":
            assert "<script>window.pwned=1</script>" in tab.inner_text("body")


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows(opened, width):
    for view in ("overview", "map", "unit", "dictionary", "checks", "run"):
        tab = opened(f"#view={view}", width)
        tab.wait_for_timeout(150)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_follows_the_system_and_the_button(opened):
    color = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(), opened(scheme="dark")
    assert light.evaluate(color) != dark.evaluate(color)
    light.click("#theme")
    assert light.evaluate(color) == dark.evaluate(color)


def test_brushing_the_map_fills_the_list(opened):
    tab = opened("#view=map&y=kurtosis")
    tab.wait_for_selector(".plot .nsewdrag")
    assert tab.locator("#brushed a").count() == 6
    tab.wait_for_timeout(800)  # the plot settles its margins after it first appears
    box = tab.locator(".plot .nsewdrag").first.bounding_box()
    tab.mouse.move(box["x"] + 30, box["y"] + 30)  # plotly's corners are handles of the axes
    tab.mouse.down()
    for step in range(1, 11):  # at the pace of a hand: plotly thins faster moves
        tab.mouse.move(box["x"] + 30 + step * box["width"] / 20, box["y"] + step * (box["height"] - 2) / 10)
        tab.wait_for_timeout(40)
    tab.mouse.up()
    expect(tab.locator("#brushed a")).not_to_have_count(6)
    assert 0 < tab.locator("#brushed a").count() < 6
    tab.locator("#brushed a").first.focus()
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#unit-name")


def test_real_stands_beside_simulated(opened):
    tab = opened(f"#view=unit&unit={UNIT.replace('#', '%23')}")
    assert tab.locator(".excerpt").first.locator(".line").count() == 2
    tab.select_option("main select", "none")
    expect(tab.locator(".excerpt").first.locator(".line")).to_have_count(1)
    assert "no card" not in tab.inner_text("main")


def test_units_without_a_card_say_so(opened):
    tab = opened("#view=unit&unit=toy/layers.0.mlp.act%234")
    assert "has no card" in tab.inner_text("main")
