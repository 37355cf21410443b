"""docs/performance.md is what its script writes from results/bench, and says what limits that which is not reached."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from aib.bench import SOURCES, SUBJECTS
from aib.bench.record import FORMAT, source_digests
from aib.bench.score import SCORED
from scripts import load_script

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_performance")


def test_the_page_is_what_its_script_writes(script: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page == script.page(), "run python docs/make_performance.py"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_is_measured_or_said_not_to_be_and_what_it_misses_has_a_remark(subject: str, script: ModuleType) -> None:
    if not (script.RESULTS / f"{subject}.json").exists():
        assert f"Not measured yet: `aib bench {subject}`" in script.section(subject)
        return
    result = script.read(subject)
    assert not result["settings"]["quick"]
    assert "+" not in result["machine"]["commit"]  # numbers of code that nobody has
    missed = [target["name"] for target in result["targets"] if target["reached"] != "yes"]
    assert not missed or subject in script.REMARKS, missed


def test_the_score_is_judged_on_the_time_of_the_processor(script: ModuleType) -> None:
    """On the clock it seemed to take less than the bare passes, which it holds: other work ran beside them."""
    result = json.loads((script.RESULTS / "score.json").read_text(encoding="utf-8"))
    (row,), (target,) = result["rows"], result["targets"]
    assert target["measured"] == row["variants"][SCORED]["processor_ratio"]
    assert target["name"].endswith(f"{SCORED} / bare, of the processor")
    assert target["wanted"] == "<= 1.15"


def test_the_script_warns_of_what_was_measured_before_a_change(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    sources = source_digests("quantizer")
    assert {"anchors.py", "functional.py", "bench/quantizer.py"} == sources.keys()
    for changed, said in (
        ({}, []),
        ({"functional.py": "0"}, ["quantizer: measured before the last change of functional.py; again: aib bench quantizer"]),
    ):
        measured = {"format": FORMAT, "sources": sources | changed, "command": "aib bench quantizer"}
        (tmp_path / "quantizer.json").write_text(json.dumps(measured))
        assert script.warnings("quantizer") == said
    (tmp_path / "quantizer.json").write_text(json.dumps({"format": FORMAT - 1, "command": "aib bench quantizer"}))
    with pytest.raises(ValueError, match=f"quantizer.json is of format {FORMAT - 1}, not {FORMAT}; measure it anew: aib bench"):
        script.read("quantizer")


def test_every_subject_names_sources_that_are_there() -> None:
    assert SOURCES.keys() == SUBJECTS.keys()
    for subject in SUBJECTS:
        digests = source_digests(subject)
        assert len(set(digests.values())) > 1
        assert f"bench/{subject}.py" in digests
