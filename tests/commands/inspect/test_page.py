"""The page, the notebook's table and the terminal's view hold the numbers, escape every text and need nothing."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

from rich.console import Console

from svd_lightning.commands.inspect import page
from svd_lightning.commands.inspect.views import number_text
from tests.commands.inspect.conftest import NASTY

_VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Checks that tags nest; keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.scripts = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data

    def having(self, role):
        return [attributes for _, attributes in self.tags if attributes.get("role") == role]


def test_every_token_is_a_tab_with_a_panel_of_its_numbers(inspection):
    found = Page(page(inspection, name="runs/one"))
    tabs, panels = found.having("tab"), found.having("tabpanel")
    assert len(tabs) == len(panels) == len(inspection.positions)
    assert [tab["aria-controls"] for tab in tabs] == [panel["id"] for panel in panels]
    assert [tab["tabindex"] for tab in tabs] == ["0", *["-1"] * (len(tabs) - 1)]
    for tab, position in zip(tabs, inspection.positions, strict=True):
        assert ("flipped" in tab["class"]) is position.flipped
        assert ("flipped" in tab["aria-label"]) is position.flipped
        assert number_text(position.shift) in tab["aria-label"]
        numbers = [position.shift, position.mask_shift, position.divergence, *position.entropy]
        assert all(number_text(number) in found.text for number in numbers)
        for one in position.ranked:
            assert all(number_text(value) in found.text for value in one.probability)
    assert f"{inspection.flips} of {len(tabs)} tokens" in found.text
    assert "runs/one" in found.text
    assert inspection.steering in found.text


def test_the_page_runs_no_script_but_its_own_and_loads_nothing(nasty):
    text = page(nasty, name=NASTY)
    found = Page(text)
    [script] = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert not {"img", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    sources = [a[name] for _, a in found.tags for name in ("src", "href") if name in a]
    assert sources == ["data:,"]
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert NASTY in found.text


def test_without_a_mask_nothing_is_said_of_one(inspection):
    found = Page(page(replace(inspection, masked=False)))
    assert "none: every token is steered" in found.text
    assert "inside" not in found.text.split("All positions")[0]


def test_a_notebook_gets_a_table_without_scripts(nasty):
    text = nasty._repr_html_()
    found = Page(text)
    assert not found.scripts
    assert len([tag for tag, _ in found.tags if tag == "tr"]) == 1 + len(nasty.positions)
    assert "<script" not in text
    assert NASTY.replace(" ", "·") in found.text
    styled = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert all(rule.strip().startswith(".svd-inspection") for rule in styled.strip().splitlines())


def test_the_terminal_shows_a_row_per_token_and_reads_no_markup(inspection, nasty):
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(inspection)
    console.print(nasty)
    shown = console.export_text()
    for position in inspection.positions:
        cells = [number_text(value) for value in position.chosen.probability]
        assert any(all(cell in line for cell in cells) for line in shown.splitlines())
    assert shown.count("document.title") >= len(nasty.positions)
    assert "≠" in shown
