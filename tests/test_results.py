"""docs/results.md is what its script writes from the recorded runs."""

from __future__ import annotations

from pathlib import Path

from scripts import load_script

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_its_script_writes() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == load_script("make_results").page(), "run python docs/make_results.py"
