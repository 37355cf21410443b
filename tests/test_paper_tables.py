"""The paper's tables: published values as printed, ours counted or read from recorded runs, and what was not run says so."""

from __future__ import annotations

import csv
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torchvision.models import wide_resnet50_2

from aib.cli import main
from aib.commands.table import _parts
from aib.models import create_model
from aib.paper.counting import changes
from aib.paper.scores import compare_scores, read_scores, table2
from aib.paper.sizes import table3, table4
from aib.paper.tables import NOT_RUN, PaperTable, compare_runs, numbered, published, read_runs, table1
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


@cache
def sizes() -> tuple[PaperTable, PaperTable]:
    """Tables 3 and 4, counted once."""
    return table3(), table4(latency=False)


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
        run(recipe, 0, 0.05, split="val"), run(recipe, 0, 0.04, samples="4x4"), run(recipe, 0, 0.04, mirror="yes"),
        run("reference/cifar10/vgg_aib", 0, 0.2),
        run("paper/cifar10/vgg", 0, 0.08, model="vgg", options="--precision bf16-mixed --channels-last True --devices 2 --compile"),
    ]  # fmt: skip
    found = table1(runs)
    assert cell(found, "vgg_aib", "cifar10") == "4.28 / 6.00 [3.52, 8.48] (3)"  # t with 2 degrees of freedom: 4.303 / sqrt(3)
    assert cell(found, "vgg_aib", "stl10_test") == "51.24 / 55.00 (1)"
    assert cell(found, "vgg_aib", "cifar100") == f"21.56 / {NOT_RUN}"
    assert cell(found, "wrn_abn", "cub200") == "–"
    assert cell(found, "vgg", "cifar10").endswith("/ 8.00 (1)")  # how a machine computes does not change the run
    assert cell(table1(runs, "reference"), "vgg_aib", "cifar10") == "4.28 / 20.00 (1)"
    assert cell(table1(runs, "reference"), "vgg", "cifar10").endswith("/ 8.00 (1)")  # the conventions do not differ
    with pytest.raises(ValueError, match="convention is 'theirs'; it must be paper or reference"):
        table1(runs, "theirs")


def test_a_local_copy_of_the_fetched_weights_is_no_change() -> None:
    recipe, of = "paper/cub200/vgg", {"data": "cub200", "evaluated_on": "cub200", "model": "vgg_cub"}

    def given(path: str, **more: str) -> dict[str, str]:
        return run(recipe, 0, 0.2, options=f"--pretrained {path}", **{**of, **more})

    for path in ("/files/vgg16-397923af.pth", "'my files/vgg16-397923af.pth'", "wide_resnet50_2-95faca4d.pth"):
        assert changes(given(path)) == []
        assert cell(table1([given(path)]), "vgg", "cub200").endswith("/ 20.00 (1)")
        assert changes(given(path), ("pretrained",)) == [f"pretrained {path}".replace("'", "")]
    for path in ("/files/vgg16.pth", "vgg16-397923af.pth/mine.pth", "vgg16-00000000.pth"):
        assert changes(given(path)) == [f"pretrained {path}"]
        assert cell(table1([given(path)]), "vgg", "cub200").endswith(NOT_RUN)
    # of networks that do not check it the name says nothing
    assert changes(given("vgg16-397923af.pth", model="timm/vgg16@features.28")) == ["pretrained vgg16-397923af.pth"]


def test_table_1_counts_no_other_network_and_no_other_data() -> None:
    vgg, cub = "paper/cifar10/vgg", "paper/cub200/vgg"
    others = [
        run(vgg, 0, 0.5, model="vgg_cbam", options="--model vgg_cbam"),
        run(vgg, 1, 0.5, model="vgg@layer3", options="--attend layer3"),
        run(vgg, 2, 0.5, model="vgg", data="svhn", evaluated_on="stl10-by-index"),
        run(cub, 0, 0.5, model="vgg", data="cub200", evaluated_on="cub200", options="--model vgg"),
    ]
    assert table1(others).rows == table1([]).rows
    own = [
        run(vgg, 0, 0.08, model="vgg", options="--model vgg"),
        run(cub, 0, 0.3, model="vgg_cub", data="cub200", evaluated_on="cub200"),
    ]
    found = table1([*others, *own])
    assert cell(found, "vgg", "cifar10") == "7.77 / 8.00 (1)"
    assert cell(found, "vgg", "cub200") == "34.64 / 30.00 (1)"
    assert cell(found, "vgg", "stl10_test") == f"55.09 / {NOT_RUN}"


def test_of_several_runs_of_a_seed_the_plainest_then_the_newest_counts() -> None:
    recipe = "paper/cifar10/vgg_aib"
    old, new = {"date": "2026-01-01"}, {"date": "2026-02-01"}
    plain = [run(recipe, 0, 0.06, **new), run(recipe, 0, 0.05, **old)]
    half, two = run(recipe, 0, 0.07, options="--precision bf16-mixed", **old), run(recipe, 0, 0.08, options="--devices 2", **new)
    for runs, counts in (([*plain, half, two], "6.00"), ([two, half, *plain], "6.00"), ([two, half], "8.00"), ([half], "7.00")):
        assert cell(table1(runs), "vgg_aib", "cifar10") == f"4.28 / {counts} (1)"
        assert [row[1] for row in compare_runs(runs, recipe).rows] == [f"{counts} (1)"]


def test_table_1_takes_the_papers_protocol() -> None:
    recipe = "paper/cifar10/vgg_aib"
    runs = [
        run(recipe, 0, 0.05), run(recipe, 0, 0.045, samples="4x4"), run(recipe, 1, 0.055, samples="4x4"),
        run(recipe, 0, 0.9, samples="1x1"), run("paper/cifar10/vgg", 0, 0.08, model="vgg"),
    ]  # fmt: skip
    mean, sampled = table1(runs), table1(runs, protocol="sampled")
    assert cell(mean, "vgg_aib", "cifar10") == "4.28 / 5.00 (1)"
    assert cell(sampled, "vgg_aib", "cifar10").startswith("4.28 / 5.00 [")  # the mean of 4.5 and 5.5
    assert cell(mean, "vgg", "cifar10") == cell(sampled, "vgg", "cifar10") == "7.77 / 8.00 (1)"  # it draws nothing
    assert compare_runs(runs, recipe, protocol="sampled").rows[0][1].startswith("5.00 [")
    mirrored = [run(recipe, 2, 0.01, mirror="yes"), run(recipe, 2, 0.01, samples="4x4", mirror="yes")]
    for protocol in ("mean", "sampled"):
        assert table1([*runs, *mirrored], protocol=protocol).rows == table1(runs, protocol=protocol).rows
    with pytest.raises(ValueError, match="protocol is 'drawn'; it must be mean or sampled"):
        table1(runs, protocol="drawn")


def test_runs_of_one_recipe_are_compared_by_seed() -> None:
    runs = [
        run("r", 0, 0.20, model="vgg"), run("r", 1, 0.30, model="vgg"),
        run("r", 0, 0.19), run("r", 1, 0.28), run("r", 7, 0.9),
        run("r", 0, 0.25, options="--beta 0.0 --model vgg_aib"),
    ]  # fmt: skip
    found = compare_runs(runs, "r")
    assert [row[0] for row in found.rows] == ["vgg", "vgg_aib", "vgg_aib beta 0.0"]
    assert cell(found, "vgg_aib", "minus vgg") == "-1.50 [-7.85, +4.85] (2)"  # seeds 0 and 1 only
    assert cell(compare_runs(runs, "r", "vgg_aib"), "vgg_aib beta 0.0", "minus vgg_aib") == "+6.00 (1)"
    assert cell(compare_runs(runs[:-2], "r"), "vgg_aib", "minus vgg") == "-1.50 [-7.85, +4.85]"  # as many as both means
    assert cell(found, "vgg", "PFLOP") == ""
    costs = [{**run("r", seed, 0.2, model="vgg"), "training_pflop": f"{0.1 + 0.02 * seed}"} for seed in (0, 1)]
    assert cell(compare_runs(costs, "r"), "vgg", "PFLOP") == "0.11"
    with pytest.raises(ValueError, match="no recorded run of the recipe 'q'; there are runs of r"):
        compare_runs(runs, "q")
    with pytest.raises(ValueError, match="no row 'wrn'; there are vgg, vgg_aib"):
        compare_runs(runs, "r", "wrn")


def test_runs_that_were_tested_otherwise_are_said_to_be_there() -> None:
    mirrored, drawn = run("r", 0, 0.1, mirror="yes", samples=""), run("r", 0, 0.1, mirror="", samples="4x4")
    here = "no recorded run of the recipe 'r' on the test images of its data and --protocol mean; there are only ones"
    with pytest.raises(
        ValueError, match=rf"^{here} on the mean path, with logits averaged over mirror images; with --samples 4 4 \("
    ):
        compare_runs([mirrored, drawn, mirrored], "r")
    with pytest.raises(ValueError, match=r"--protocol sampled; there are only ones on the mean path \(.* with --samples 4 4\)$"):
        compare_runs([run("r", 0, 0.1)], "r", protocol="sampled")
    with pytest.raises(ValueError, match="there are only ones on the mean path, on val images of cifar10"):
        compare_runs([run("r", 0, 0.1, split="val")], "r")


@pytest.mark.parametrize("recipe", ["paper/cifar10/vgg_aib", "gone"])
def test_a_run_on_other_data_has_a_row_of_its_own(recipe: str) -> None:
    other = {"data": "svhn", "evaluated_on": "svhn", "date": "2026-02-01"}
    runs = [
        run(recipe, 0, 0.9, **other), run(recipe, 0, 0.9, options="--beta 0.0", **other),
        {**run(recipe, 0, 0.1), "command": f"aib train --recipe {recipe} --seed 0"},
        run(recipe, 1, 0.2, evaluated_on="stl10-by-name"),
    ]  # fmt: skip
    rows = {row[0]: row[1:3] for row in compare_runs(runs, recipe).rows}
    assert rows == {  # errors on two data sets have no difference
        "vgg_aib": ("10.00 (1)", ""), "vgg_aib data svhn": ("90.00 (1)", ""), "vgg_aib data svhn beta 0.0": ("90.00 (1)", "")
    }  # fmt: skip
    assert next(iter(rows)) == "vgg_aib"
    assert compare_runs(runs, recipe, "vgg_aib data svhn").rows[2][2] == "+0.00"


def score(model: str, edit: str, size: str, value: float, **more: str) -> dict[str, str]:
    """A recorded score; its excess is 0.3 below, and 0.1 above that of the best control."""
    row = {"model": model, "data": "cifar10", "evaluated_on": "cifar10", "split": "test", "recipe": f"paper/cifar10/{model}",
           "seed": "0", "score_seed": "0", "source": "own map", "edit": edit, "size": size, "threshold": "0.9", "n": "1000",
           "unchanged": "250", "score": f"{value}", "excess": f"{value - 0.3}", "above": "0.1", "correlation_excess": "0.2",
           "correlation_above": "-0.1", "options": "", **more}  # fmt: skip
    row["command"] = f"aib train --recipe {row['recipe']} {row.pop('options')} --model {model} --seed {row['seed']}"
    return row


def test_table_2_takes_recorded_scores() -> None:
    low = [score("vgg_aib", "low frequencies", "12", value, seed=seed) for value, seed in ((0.61, "0"), (0.65, "1"))]
    none = {"unchanged": "0", "score": "", "excess": "", "above": "", "correlation_excess": "", "correlation_above": ""}
    others = [
        score("vgg_aib", "low frequencies", "12", 0.1, threshold="0.85"),
        score("vgg_aib", "low frequencies", "12", 0.1, source="iba"),
        score("vgg_aib", "low frequencies", "12", 0.1, recipe="mine"), score("vgg_aib", "low frequencies", "8", 0.5),
        score("vgg_aib", "colour window", "16", 0.5, **none), score("vgg_aib", "SVHN window", "16", 0.5, **none),
        score("vgg_aib", "SVHN window", "16", 0.7, seed="1"),
        # another experiment, other images, another seed of the edits, a trial on few images
        score("vgg_aib", "low frequencies", "12", 0.1, options="--beta 0.0 --epochs 1"),
        score("vgg_aib", "low frequencies", "12", 0.1, split="val"),
        score("vgg_aib", "low frequencies", "12", 0.1, evaluated_on="stl10-by-name"),
        score("vgg_aib", "low frequencies", "12", 0.1, score_seed="3"),
        score("vgg_aib", "low frequencies", "12", 0.1, n="8"),
    ]  # fmt: skip
    rows = {row[:4]: row[4:] for row in table2([*others, *low]).rows}
    published_value, stays, ours, excess, above, *correlation = rows["vgg_aib", "cifar10", "low frequencies", "–"]
    assert published_value == "53.26"
    assert (stays, correlation) == ("25.00 [25.00, 25.00] (2)", ["20.00 [20.00, 20.00] (2)", "-10.00 [-10.00, -10.00] (2)"])
    assert ours == "63.00 [37.59, 88.41] (2)"  # t with 1 degree of freedom: 12.706 / sqrt(2) times the deviation
    assert excess == "33.00 [7.59, 58.41] (2)"
    assert above.startswith("10.00 [")
    assert rows["vgg_aib", "cifar10", "low frequencies", "8"][:3] == ("–", "25.00 (1)", "50.00 (1)")
    assert rows["vgg_aib", "cifar10", "colour window", "16"][1:] == ("0.00 (1)", "none unchanged", "–", "–", "–", "–")
    some = rows["vgg_aib", "cifar10", "SVHN window", "16"]
    assert some[1:4] == ("12.50 [-146.33, 171.33] (2)", "70.00 (1), none unchanged in 1", "40.00 (1)")
    assert {row[5:] for row in table2([]).rows} == {(NOT_RUN,) * 6}
    notes = " ".join(table2([]).notes)
    assert "which published rows are low and which high frequencies are our reading of the paper" in notes
    assert "on the images that controls were scored on" in notes


def test_table_2_counts_one_convention_and_one_run_a_seed() -> None:
    edit = ("low frequencies", "12")
    half = score("vgg_aib", *edit, 0.9, options="--precision bf16-mixed", date="2026-02-01")
    runs = [
        score("vgg_aib", *edit, 0.6, date="2026-01-01"), half,
        score("vgg_aib", *edit, 0.8, recipe="reference/cifar10/vgg_aib"),
        score("vgg_aib", *edit, 0.1, seed="1", recipe="paper/cifar10/vgg"),  # of another network's recipe
        score("vgg_aib", *edit, 0.1, seed="1", recipe="paper/svhn/vgg_aib"),
        score("vgg_att3", *edit, 0.7),
    ]  # fmt: skip

    def ours(runs: list[dict[str, str]], convention: str = "paper", model: str = "vgg_aib") -> str:
        rows = {row[:4]: row[6] for row in table2(runs, convention=convention).rows}
        return rows[model, "cifar10", "low frequencies", "–"]

    assert [ours(runs), ours(runs[::-1]), ours([half])] == ["60.00 (1)", "60.00 (1)", "90.00 (1)"]
    assert ours(runs, "reference") == "80.00 (1)"
    assert ours(runs, "reference", "vgg_att3") == "70.00 (1)"  # the conventions do not differ
    for mine in (runs[:2], runs[1::-1]):
        assert [row[5] for row in compare_scores(mine, "paper/cifar10/vgg_aib").rows] == ["60.00 (1)"]
    with pytest.raises(ValueError, match="convention is 'theirs'; it must be paper or reference"):
        table2(runs, convention="theirs")


def test_scores_of_one_recipe_are_compared_by_seed() -> None:
    scores = [
        score(model, edit, "4", value, recipe="mine", seed=f"{seed}", options=options)
        for edit, better in (("colour window", 0.1), ("low frequencies", 0.0))
        for model, options, values in (
            ("vgg_att3", "", (0.5, 0.7)), ("vgg_aib", "", (0.5 + better, 0.7 + better)), ("vgg_aib", "--beta 0.0", (0.4,)),
        )
        for seed, value in enumerate(values)
    ]  # fmt: skip
    found = compare_scores(scores, "mine")
    rows = {(row[1], row[3]): row[4:] for row in found.rows}
    assert len(rows) == len(found.rows) == 6
    assert rows["colour window", "vgg_aib"][-1] == "+10.00 [+10.00, +10.00]"
    assert rows["low frequencies", "vgg_aib"][-1] == "+0.00 [+0.00, +0.00]"
    assert rows["colour window", "vgg_aib beta 0.0"] == tuple(
        f"{value} (1)" for value in ("25.00", "40.00", "10.00", "10.00", "20.00", "-10.00", "-10.00")
    )
    assert rows["colour window", "vgg_att3"][-1] == ""
    correlated = compare_scores([{**row, "correlation_excess": "0.31"} for row in scores[:1]], "mine")
    assert correlated.rows[0][-3:] == ("31.00 (1)", "-10.00 (1)", "")
    other = {(row[1], row[3]): row[4:] for row in compare_scores(scores, "mine", first="vgg_aib").rows}
    assert other["colour window", "vgg_att3"][-1] == "-10.00 [-10.00, -10.00]"
    with pytest.raises(ValueError, match=r"no recorded score of the recipe 'none' at 0.9; there are scores of mine"):
        compare_scores(scores, "none")
    with pytest.raises(ValueError, match=r"no row 'wrn'; there are vgg_att3, vgg_aib, vgg_aib beta 0.0"):
        compare_scores(scores, "mine", first="wrn")


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"PK\xe9\x00")
    with pytest.raises(ValueError, match=r"binary\.csv is not a table of scores: it is no text with commas"):
        read_scores(tmp_path / "binary.csv")
    (tmp_path / "scores.csv").write_text("model,data\n")
    with pytest.raises(ValueError, match="is not a table of scores: it has no column above, command"):
        read_scores(tmp_path / "scores.csv")
    assert read_scores(tmp_path / "absent.csv") == []


def test_tables_3_and_4_explain_every_difference() -> None:
    for table, tolerance in zip(sizes(), (0.0051, 0.0051)):
        here, ours = table.columns.index("published"), table.columns.index("ours")
        assert len(table.rows) == len(published("sizes"))
        for row in table.rows:
            differs = row[here] != "–" and abs(float(row[here]) - float(row[ours])) > tolerance
            assert bool(row[-1]) == differs, row
    for line, row in zip(published("sizes"), sizes()[1].rows, strict=True):
        assert float(row[4]) == pytest.approx(float(line["gmac_exact"]), abs=1.01e-6)
    for line, row in zip(published("sizes"), sizes()[0].rows, strict=True):
        unused = 20.736 * line["model"].startswith("wrn_aib") * line["model"].endswith("_cub")
        assert float(row[3]) == pytest.approx(float(line["params_m_exact"]) - unused, abs=1e-7)
    assert "unexplained" not in {row[-1] for table in sizes() for row in table.rows}


def test_the_reasons_of_table_3_give_the_printed_numbers() -> None:
    printed = {(line["model"], line["classes"]): line["params_m_paper"] for line in published("sizes")}
    with torch.device("meta"):
        for name in ("vgg_aib", "vgg_aib_qt"):
            for classes in (10, 100):
                model = create_model(name, classes)
                state, own = (sum(t.numel() for t in found) for found in (model.state_dict().values(), model.parameters()))
                assert state - own == 10_511
                assert f"{state / 1e6:.2f}" == printed[name, str(classes)] != f"{own / 1e6:.2f}"
        third = sum(parameter.numel() for parameter in wide_resnet50_2().layer3.parameters())
        ours = sum(parameter.numel() for parameter in create_model("wrn_aib_cub", 200).parameters())
    assert third == 20_736_000
    assert f"{(ours + third) / 1e6:.2f}" == printed["wrn_aib_cub", "200"]


def test_reasons_are_said_once_below_the_table() -> None:
    _, table = sizes()
    short = numbered(table)
    assert short.columns[-1] == "note"
    assert {row[-1] for row in short.rows} == {"", "(1)", "(2)"}
    assert [row[:-1] for row in short.rows] == [row[:-1] for row in table.rows]
    for long_row, row in zip(table.rows, short.rows, strict=True):
        if row[-1]:
            assert f"{row[-1]} {long_row[-1]}" in short.notes
    assert numbered(table1([])) == table1([])


def test_markdown_sets_numbers_flush_right() -> None:
    rows = (("vgg", "20.2 (3)", "", ""), ("vgg_aib", "21", "+0.8", "(a)"))
    table = PaperTable("title", ("model", "error", "minus vgg", "note"), rows)
    assert table.markdown().splitlines() == [
        "| model | error | minus vgg | note |",
        "| --- | ---: | ---: | --- |",
        "| vgg | 20.2 (3) |  |  |",
        "| vgg_aib | 21 | +0.8 | (a) |",
    ]
    assert PaperTable("title", ("a", "b"), ()).markdown() == "| a | b |\n| --- | --- |"


def test_the_command_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing was recorded yet
    assert main(["table", "1", "--out", str(tmp_path / "t.md")]) == 0
    assert "4.10 / not run" in capsys.readouterr().out
    assert "| vgg_aib_qt | 4.10 / not run |" in (tmp_path / "t.md").read_text()
    assert main(["table", "2", "--convention", "reference"]) == 0
    assert "(cosine 0.9, reference recipes)" in capsys.readouterr().out
    assert main(["table", "3", "--out", str(tmp_path / "t.csv")]) == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(published("sizes"))
    assert "self.tmp_layer" in (tmp_path / "t.csv").read_text()
    assert main(["table", "5"]) == 2
    assert main(["table", "3", "--out", str(tmp_path / "t.md")]) == 0
    assert capsys.readouterr().out.count("model_qt.py") == 2 * (tmp_path / "t.md").read_text().count("model_qt.py") == 2
    assert main(["table", "1", "--out", str(tmp_path / "t.tex")]) == 2
    assert "must end in .csv or .md" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert main(["table", "1", "--runs", str(tmp_path / "bad.csv")]) == 2
    assert "is not a table of runs: it has no column command" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_keeps_its_names_and_numbers_whole_on_a_narrow_terminal(width: int) -> None:
    runs = [run("paper/cifar10/vgg_aib_qt", seed, 0.05 + seed / 100, model="vgg_aib_qt") for seed in range(3)]
    for table in (table1(runs), *([*map(numbered, sizes()), table2([])] if width >= 80 else [])):  # by model alone, or not
        console = Console(width=width, file=StringIO())
        parts = _parts(table, console)
        for part in parts:
            console.print(part)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        text = " ".join(lines).split()
        assert {word for row in table.rows for cell in row for word in cell.split()} <= set(text)
    assert len(_parts(table1([]), Console(width=width))) == {60: 3, 80: 2, 120: 1}[width]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1", "--runs", "absent.csv"], "there is no file absent.csv"),
        (["1", "--versus", "vgg"], "--versus goes with --recipe"),
        (["1", "--recipe", "mine", "--convention", "reference"], "--convention is for tables 1 and 2, without --recipe"),
        (["3", "--convention", "reference"], "--convention is for tables 1 and 2"),
        (["2", "--protocol", "sampled"], "--protocol is for table 1"),
        (["3", "--recipe", "mine"], "--recipe is for tables 1 and 2"),
        (["1", "--threshold", "0.85"], "--threshold is for table 2"),
        (["2", "--threshold", "0.8"], "threshold is 0.8; it must be one of 0.85, 0.9, 0.95"),
        (["4", "--no-latency", "--device", "cuda"], "--device is for table 4, with its times"),
        (["4", "--device", "foo"], "foo"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_our_own_records_have_the_columns_of_today() -> None:
    path = ROOT / "results" / "runs.csv"
    with path.open(newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    assert read_runs(path)
