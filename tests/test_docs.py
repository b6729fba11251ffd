"""The code of the pages in docs/ and of README.md runs, block after block, and prints what stands below it."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/masking.md", "docs/autoencoder.md"]


def blocks(page):
    """(line number, code, what it is said to print or None) of each Python block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", text, re.M | re.S)
    return [(text[: m.start()].count("\n") + 1, m.group(1), m.group(2)) for m in found]


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="there is no docs/ beside these tests (not a checkout)")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pages save models
    names, found = {"__name__": "page"}, blocks(page)
    assert len(found) > 2
    with warnings.catch_warnings():
        for line, code, expected in found:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * line + code, page, "exec"), names)
            if expected is not None:
                assert printed.getvalue() == expected, f"{page}, line {line}"
