"""The paper's tables: published values as printed, ours counted or read from recorded runs, and what was not run says so."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from aib.cli import main
from aib.paper.tables import NOT_RUN, compare_runs, published, read_runs, table1, table2, table3, table4
from aib.train.record import COLUMNS

ROOT = Path(__file__).resolve().parent.parent


def run(recipe: str, seed: int, error: float, *, model: str = "vgg_aib", options: str = "", **more: str) -> dict[str, str]:
    """A recorded run of CIFAR-10."""
    command = f"aib train --recipe {recipe} --data data/cifar10.npz {options} --seed {seed}"
    return {"data": "cifar10", "evaluated_on": "cifar10", "model": model, "recipe": recipe, "seed": str(seed), "split": "test",
            "error": str(error), "rate_bits": "", "command": command, **more}  # fmt: skip


def cell(table, row: str, column: str) -> str:
    (values,) = [values for values in table.rows if values[0] == row]
    return values[table.columns.index(column)]


def test_published_values_are_complete() -> None:
    assert len(published("table1")) == 12
    assert {line["model"]: line["cifar10"] for line in published("table1")}["vgg_aib_qt"] == "4.10"
    assert len(published("table2")) == 6 * 2 * (4 + 4 + 2)
    assert all(0 <= float(line["score"]) <= 100 for line in published("table2"))


def test_table_1_counts_runs_of_its_own_recipes_unchanged() -> None:
    recipe = "paper/cifar10/vgg_aib"
    runs = [
        run(recipe, 0, 0.05), run(recipe, 1, 0.06), run(recipe, 2, 0.07),
        run(recipe, 3, 0.5, options="--beta 0.0"),  # another experiment
        run("cifar10/narrow_aib_qt", 0, 0.4),
        run(recipe, 0, 0.55, evaluated_on="stl10-by-index"), run(recipe, 1, 0.15, evaluated_on="stl10"),
        run(recipe, 0, 0.05, split="val"), run(recipe, 0, 0.04, samples="4x4"),
        run("reference/cifar10/vgg_aib", 0, 0.2),
    ]  # fmt: skip
    found = table1(runs)
    assert cell(found, "vgg_aib", "cifar10") == "4.28 / 6.00 [3.52, 8.48] (3)"  # t with 2 degrees of freedom: 4.303 / sqrt(3)
    assert cell(found, "vgg_aib", "stl10_test") == "51.24 / 55.00 (1)"
    assert cell(found, "vgg_aib", "cifar100") == f"21.56 / {NOT_RUN}"
    assert cell(found, "wrn_abn", "cub200") == "–"
    assert cell(table1(runs, "reference"), "vgg_aib", "cifar10").endswith("(4)")
    with pytest.raises(ValueError, match="convention is 'theirs'; it must be paper or reference"):
        table1(runs, "theirs")


def test_runs_of_one_recipe_are_compared_by_seed() -> None:
    runs = [
        run("r", 0, 0.20, model="vgg"), run("r", 1, 0.30, model="vgg"),
        run("r", 0, 0.19), run("r", 1, 0.28), run("r", 7, 0.9),
        run("r", 0, 0.25, options="--beta 0.0 --model vgg_aib"),
    ]  # fmt: skip
    found = compare_runs(runs, "r")
    assert [row[0] for row in found.rows] == ["vgg", "vgg_aib", "vgg_aib beta 0.0"]
    assert cell(found, "vgg_aib", "minus vgg") == "-1.50 [-7.85, 4.85]"  # seeds 0 and 1 only
    assert cell(compare_runs(runs, "r", "vgg_aib"), "vgg_aib beta 0.0", "minus vgg_aib") == "+6.00"
    with pytest.raises(ValueError, match="no recorded run of the recipe 'q'; there are runs of r"):
        compare_runs(runs, "q")
    with pytest.raises(ValueError, match="no row 'wrn'; there are vgg, vgg_aib"):
        compare_runs(runs, "r", "wrn")


def test_table_2_takes_recorded_scores(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("model,data,edit,size,score\nvgg_aib,cifar10,low frequencies,,61\nvgg_aib,cifar10,low frequencies,,65\n")
    rows = {row[:4]: row[4:] for row in table2(scores).rows}
    assert rows["vgg_aib", "cifar10", "low frequencies", "–"][0] == "53.26"
    assert rows["vgg_aib", "cifar10", "low frequencies", "–"][1].startswith("63.00 [")
    assert {row[-1] for row in table2(tmp_path / "absent.csv").rows} == {NOT_RUN}


def test_tables_3_and_4_explain_every_difference() -> None:
    for table, tolerance in ((table3(), 0.0051), (table4(latency=False), 0.02)):
        here, ours = table.columns.index("published"), table.columns.index("ours")
        assert len(table.rows) == len(published("sizes"))
        for row in table.rows:
            differs = row[here] != "–" and abs(float(row[here]) - float(row[ours])) > tolerance
            assert bool(row[-1]) == differs, row
    for line, row in zip(published("sizes"), table4(latency=False).rows, strict=True):
        assert float(row[4]) == pytest.approx(float(line["gmac_exact"]), abs=1.01e-6)
    for line, row in zip(published("sizes"), table3().rows, strict=True):
        assert float(row[3]) == pytest.approx(float(line["params_m_exact"]) - 20.736 * (line["model"] == "wrn_aib_cub"), abs=1e-7)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "1", "--runs", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "t.md")]) == 0
    assert "4.10 / not run" in capsys.readouterr().out
    assert "| vgg_aib_qt | 4.10 / not run |" in (tmp_path / "t.md").read_text()
    assert main(["table", "3", "--out", str(tmp_path / "t.csv")]) == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(published("sizes"))
    assert main(["table", "5"]) == 2
    assert main(["table", "1", "--out", str(tmp_path / "t.tex")]) == 2
    assert "must end in .csv or .md" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert main(["table", "1", "--runs", str(tmp_path / "bad.csv")]) == 2
    assert "is not a table of runs: it has no column command" in capsys.readouterr().err


def test_our_own_records_have_the_columns_of_today() -> None:
    path = ROOT / "results" / "runs.csv"
    with path.open(newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    assert read_runs(path)
