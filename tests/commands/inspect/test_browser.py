"""The page in a real browser: keyboard, pointer, phone width, both colour schemes, and nothing on the console."""

import pytest

from svd_lightning.commands.inspect import page
from tests.browser import browser, visit

pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

__all__ = ["browser"]

CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const solid = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => colour.map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
const page = getComputedStyle(document.body).backgroundColor;
return [...document.querySelectorAll("[role=tab]")].map((token) => {
  const style = getComputedStyle(token);
  const behind = [page, style.backgroundColor];
  const pair = [light(solid(behind)), light(solid([...behind, style.color]))].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
});
"""
"""The contrast of every token's letters with what lies behind them, as WCAG defines it."""


@pytest.fixture
def opened(browser, tmp_path):
    """Opens an inspection's page in a window, light or dark."""

    def show(inspection, *, width=1280, height=900, scheme="light"):
        path = tmp_path / "inspect.html"
        path.write_text(page(inspection), encoding="utf-8")
        visit(browser, path, width=width, height=height, scheme=scheme)
        return browser

    yield show
    assert browser.get_log("browser") == []


def tokens(browser):
    return browser.find_elements(By.CSS_SELECTOR, "[role=tab]")


def shown(browser):
    """The heading of the one panel that is to be seen."""
    panels = [one for one in browser.find_elements(By.CSS_SELECTOR, "[role=tabpanel]") if one.is_displayed()]
    assert len(panels) == 1
    return panels[0].find_element(By.TAG_NAME, "h3").text.split(":")[0]


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def test_the_keyboard_goes_from_token_to_token(opened, inspection):
    browser = opened(inspection)
    count = len(inspection.positions)
    assert shown(browser) == "Token 1"
    tokens(browser)[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown(browser) == "Token 3"
    focused = browser.switch_to.active_element
    assert focused == tokens(browser)[2]
    assert focused.get_attribute("aria-selected") == "true"
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused) == "solid"
    press(browser, Keys.ARROW_LEFT)
    assert shown(browser) == "Token 2"
    press(browser, Keys.END, Keys.ARROW_RIGHT)
    assert shown(browser) == f"Token {count}"
    press(browser, Keys.HOME)
    assert shown(browser) == "Token 1"


def test_up_and_down_go_from_line_to_line(opened, inspection):
    browser = opened(inspection, width=390, height=844)
    press(browser, Keys.TAB)
    tokens(browser)[1].send_keys(Keys.ARROW_DOWN)
    below = browser.switch_to.active_element
    first, second = tokens(browser)[1].rect, below.rect
    assert second["y"] > first["y"]
    assert abs(second["x"] - first["x"]) < 40
    press(browser, Keys.ARROW_UP)
    assert shown(browser) == "Token 2"


def test_tab_stops_once_at_the_tokens_and_once_at_the_panel(opened, inspection):
    browser = opened(inspection)
    tokens(browser)[3].click()
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "panel-3"
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "token-3"


def test_pointing_at_a_token_shows_it(opened, inspection):
    browser = opened(inspection)
    ActionChains(browser).move_to_element(tokens(browser)[5]).perform()
    assert shown(browser) == "Token 6"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_off_the_side_and_letters_can_be_read(opened, inspection, nasty, width, scheme):
    for one in (inspection, nasty):
        browser = opened(one, width=width, scheme=scheme)
        browser.execute_script("document.querySelector('details').open = true")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser = opened(inspection, width=width, scheme=scheme)
    every = "document.querySelectorAll('[role=tab]').forEach((token, n) => token.classList.add(`l${n % 6}`))"
    browser.execute_script(every)
    assert min(browser.execute_script(CONTRASTS)) > 4.5
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert dark is (scheme == "dark")


def test_on_a_phone_the_panel_hides_no_token_that_has_the_focus(opened, inspection):
    browser = opened(inspection, width=390, height=600)
    tokens(browser)[0].send_keys(*[Keys.ARROW_RIGHT] * 30)
    token = browser.switch_to.active_element
    bottom, panel_top = browser.execute_script(
        "return [arguments[0].getBoundingClientRect().bottom,"
        "document.querySelector('.panels').getBoundingClientRect().top]",
        token,
    )
    assert bottom <= panel_top


def test_markup_in_texts_is_text(opened, nasty):
    browser = opened(nasty)
    tokens(browser)[0].send_keys(Keys.ARROW_RIGHT)
    assert browser.title == "svd-lightning inspect"
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert "<script>" in tokens(browser)[0].text
