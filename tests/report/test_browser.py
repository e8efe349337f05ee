"""The report in a real browser: at phone, tablet and desktop width, light and dark, nothing scrolls sideways."""

import pytest

from tests.browser import browser, visit
from tests.report.cases import CASES, corrected
from tests.report.test_page import written

__all__ = ["browser"]

HIDDEN = """
const wide = [document.documentElement, ...document.querySelectorAll(".scroll, figure, p, dl")];
return wide.filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.outerHTML.slice(0, 80));
"""
"""What is wider than its place."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "report.html"
    path.write_text(written(corrected(CASES["tasks"]()), folder), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_scrolls_sideways(browser, report, width, scheme):
    visit(browser, report, width=width, scheme=scheme)
    assert browser.execute_script(HIDDEN) == []
    assert browser.get_log("browser") == []
