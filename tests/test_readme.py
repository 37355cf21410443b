"""README.md is true: its Python runs, block after block, and the commands it shows exist with the options it gives them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aib.cli import COMMANDS, command

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
JOINTS = {"&&", "||", "|", ";", "&", "·"}


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Fenced blocks of ``language``: the line each begins on, and its content."""
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


def commands(text: str) -> list[list[str]]:
    """Commands of the ``sh`` blocks as words; comments dropped, continued lines joined, chains taken apart."""
    found = []
    for _, block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line.removeprefix("$ "), comments=True), ";"]:
                if word not in JOINTS:
                    words.append(word)
                elif words:
                    found.append(words)
                    words = []
    return found


@cache
def options_of(verb: str) -> set[str]:
    """Options in the help of a verb."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stopped:
        command(verb)(["--help"])
    assert stopped.value.code == 0
    return set(OPTION.findall(shown.getvalue()))


def targets() -> set[str]:
    """Targets of the Makefile that have a help text."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def wrong(words: list[str]) -> list[str]:
    """What is wrong with a command, if it is one of ``aib`` or ``make``."""
    if words[:3:2] == ["python", "aib"] and words[1] == "-m":
        words = words[2:]
    program, *rest = words
    if Path(program).name == "make":
        return [f"make has no target {word!r}" for word in rest if "=" not in word and word not in targets()]
    if Path(program).name != "aib" or rest[:1] in ([], ["--help"], ["--version"]):
        return []
    if rest[0] not in COMMANDS:
        return [f"aib has no command {rest[0]!r}"]
    given = {word.split("=")[0] for word in rest[1:] if word.startswith("--")} - {"--help"}
    return [f"aib {rest[0]} has no option {option}" for option in sorted(given - options_of(rest[0]))]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(README.read_text(encoding="utf-8"), "python")
    assert found, "README.md shows no Python"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, block in found:
        # empty lines in front, so that a traceback gives the line in README.md
        exec(compile("\n" * (line - 1) + block, str(README), "exec"), namespace)


def test_the_commands_of_the_readme_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = commands(README.read_text(encoding="utf-8"))
    assert [problem for words in found for problem in wrong(words)] == []
    assert ["make", "demo"] in found
    assert ["make", "test"] in found
    assert any(Path(words[0]).name == "aib" for words in found)


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        ("aib trian --data photos", ["aib has no command 'trian'"]),
        ("aib train --datta photos --lr 0.1", ["aib train has no option --datta"]),
        ("aib train --data photos \\\n  --modle vgg_s", ["aib train has no option --modle"]),
        ("cd x && .venv/bin/aib report RUN --colour=red", ["aib report has no option --colour"]),
        ("python -m aib evla RUN", ["aib has no command 'evla'"]),
        ("make tset", ["make has no target 'tset'"]),
        ("aib train --data photos/ --attend layer3  # any --site", []),
        ("aib eval RUN --samples 4 4 | tee --append log", []),
        ("aib demo --no-open && make test ARGS=tests", []),
        ("pip install -e '.[dev]' -c constraints.txt", []),
        ("aib --help", []),
    ],
)
def test_a_wrong_command_would_be_seen(line: str, problems: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert [problem for words in commands(f"text\n```sh\n{line}\n```\n") for problem in wrong(words)] == problems


def test_blocks_are_found_where_they_begin() -> None:
    text = "a\n```python\nx = 1\n```\n```sh\naib demo\n```\n\n```python\ny = x\nz = y\n```\n"
    assert blocks(text, "python") == [(3, "x = 1\n"), (10, "y = x\nz = y\n")]
    assert blocks(text, "sh") == [(6, "aib demo\n")]


def test_the_demos_table_is_that_of_its_record() -> None:
    record, text = json.loads((ROOT / "results" / "demo.json").read_text()), README.read_text()
    assert f"`{record['command']}`" in text
    for model, error in (("aib_qt", "aib_qt"), ("aib_qt_beta_0", "aib_qt_beta_0"), ("grad_cam", "baseline")):
        maps = [
            sum(row[model][metric] for row in record["seeds"]) / len(record["seeds"])
            for metric in ("pointing_game", "energy", "iou")
        ]
        errors = sum(row[error]["error"] for row in record["seeds"]) / len(record["seeds"])
        assert f"| {' | '.join(f'{value:.3f}' for value in maps)} | {100 * errors:.1f} % |" in text
