"""Every packaged recipe parses strictly, builds its model, and is listed."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pytest
import torch

import aib.recipes
from aib.cli import main
from aib.models.build import build_model
from aib.recipes import list_recipes, load_recipe, recipe_path
from aib.train.config import TrainConfig, config_from_dict
from aib.train.record import COLUMNS

FILES = sorted(Path(aib.recipes.__file__).parent.rglob("*.toml"))
CLASSES = {"cifar10": 10, "cifar100": 100, "clutter": 10, "svhn": 10, "cub200": 200}


def name_of(path: Path) -> str:
    return path.relative_to(Path(aib.recipes.__file__).parent).with_suffix("").as_posix()


def test_the_list_is_that_of_the_files() -> None:
    assert [recipe.name for recipe in list_recipes()] == sorted(map(name_of, FILES), key=lambda name: Path(name + ".toml"))
    assert len({recipe.name for recipe in list_recipes()}) == len(FILES)


@pytest.mark.parametrize("path", FILES, ids=map(name_of, FILES))
def test_a_recipe_parses_strictly_builds_its_model_and_says_what_it_is(path: Path) -> None:
    name = name_of(path)
    config = load_recipe(name)
    assert config.run.recipe == name
    (recipe,) = [r for r in list_recipes() if r.name == name]
    assert recipe.summary
    m = config.model
    # published weights need the network, and full sizes time: the architecture is what is checked
    with torch.device("meta"):
        build_model(
        m.model, CLASSES.get(config.data.data, 2), attend=m.attend, anchors=m.anchors, latent_dim=m.latent_dim,
        modulation=m.modulation, width=m.width,
        image_size=None if config.data.image_size is None else (config.data.image_size,) * 2,
    )  # fmt: skip
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    # what would make a recipe depend on the machine or on the run
    assert not {"out", "device", "quiet", "recipe"} & set(tables.get("run", {}))
    assert config == config_from_dict({**tables, "run": {**tables.get("run", {}), "recipe": name}})


def write_recipes(folder: Path) -> None:
    (folder / "small").mkdir(parents=True)
    (folder / "small" / "one.toml").write_text(
        "# A small run\n# published: 5.10\n# measured: 4.90 (3 seeds)\n\n# not header: 1\n[optim]\nepochs = 2\n"
    )
    (folder / "two.toml").write_text("[model]\nmodel = 'vgg_xs'\nanchors = 'many'\n")


def test_headers_nested_names_and_near_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipes(tmp_path)
    monkeypatch.setattr(aib.recipes, "FOLDER", tmp_path)
    one, two = list_recipes()
    assert (one.name, one.summary, one.published, one.measured) == ("small/one", "A small run", "5.10", "4.90 (3 seeds)")
    assert (two.name, two.summary, two.published) == ("two", "", "")
    assert load_recipe("small/one").optim.epochs == 2
    assert load_recipe("small/one").run.recipe == "small/one"
    with pytest.raises(ValueError, match=r"unknown recipe 'small/won'; did you mean small/one\?"):
        load_recipe("small/won")
    with pytest.raises(ValueError, match="anchors is 'many'"):
        load_recipe("two")


def test_a_recipe_may_be_a_file_but_a_name_never_leaves_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[optim]\nepochs = 4\n")
    assert load_recipe(str(mine)).optim.epochs == 4
    assert load_recipe(str(mine)).data == TrainConfig().data
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(aib.recipes, "FOLDER", tmp_path / "package")
    with pytest.raises(ValueError, match=r"unknown recipe '../mine'; there are none. A path must end in .toml"):
        recipe_path("../mine")
    with pytest.raises(ValueError, match=r"no recipe at absent\.toml; there are none"):
        load_recipe("absent.toml")


def test_the_suffix_may_stay_and_the_run_keeps_the_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "paper/cifar10/vgg_aib_qt"
    for written in (f"{name}.toml", str(recipe_path(name))):
        assert load_recipe(written) == load_recipe(name)  # table 1 finds its runs by the recipe's name
    monkeypatch.chdir(tmp_path)
    mine = Path(f"{name}.toml")
    mine.parent.mkdir(parents=True)
    mine.write_text("[optim]\nepochs = 4\n")
    assert load_recipe(str(mine)).optim.epochs == 4
    assert load_recipe(str(mine)).run.recipe == str(mine)
    assert load_recipe(name).optim.epochs == 200


def test_the_list_quotes_recorded_runs_before_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(recipe: str, model: str, seed: int, error: float, options: str = "") -> dict[str, str]:
        command = f"aib train --recipe {recipe} {options} --seed {seed}"
        values = {
            "data": "cifar10",
            "evaluated_on": "cifar10",
            "model": model,
            "recipe": recipe,
            "seed": str(seed),
            "split": "test",
        }
        return {**dict.fromkeys(COLUMNS, ""), **values, "error": str(error), "command": command}

    def listed(*words: str) -> dict[str, str]:
        assert main(["recipes", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: " ".join(line.split()[1:]) for line in lines if "/" in line.split(" ")[0]}

    monkeypatch.chdir(tmp_path)
    narrow, vgg = "cifar10/narrow_aib_qt", "paper/cifar10/vgg"
    assert listed()[vgg] == "7.77 % error not run"
    runs = [
        row(narrow, "vgg_aib_qt", 0, 0.2),
        row(narrow, "vgg_aib_qt", 0, 0.3, "--beta 0"),
        row(narrow, "vgg", 1, 0.4, "--model vgg"),
    ]
    runs += [row(vgg, "vgg_cbam", 0, 0.1, "--model vgg_cbam")]
    Path("results").mkdir()
    with Path("results/runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(runs)
    found = listed()
    assert found[narrow] == "- 20.00 (1), 3 runs in all"
    assert found[vgg] == "7.77 % error not run, 1 run in all"
    assert found["clutter/vgg_s"].startswith("- 5.3 % error")  # of which the table has no run
    assert set(listed("paper/cifar10")) == {name for name in found if name.startswith("paper/cifar10/")}
    assert main(["recipes", "--runs", "absent.csv"]) == 2
    assert "there is no file absent.csv" in capsys.readouterr().err
    assert main(["recipes", vgg, "--runs", "other.csv"]) == 2
    assert "--runs is for the list" in capsys.readouterr().err
    Path("results/runs.csv").write_text("a,b\n1,2\n")  # somebody's own, in a folder of that name
    assert main(["recipes"]) == 0
    assert "nothing is quoted of recorded runs: results/runs.csv is not a table of runs" in capsys.readouterr().out


def test_the_command_lists_prints_and_suggests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipes(tmp_path)
    monkeypatch.setattr(aib.recipes, "FOLDER", tmp_path)
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    for text in ("small/one", "A small run", "5.10", "not run", "vgg_s_aib_qt", "aib train --recipe NAME"):
        assert text in out
    assert main(["recipes", "small/one"]) == 0
    assert capsys.readouterr().out == (tmp_path / "small" / "one.toml").read_text()
    assert main(["recipes", "tow"]) == 2
    assert capsys.readouterr().err == "aib recipes: unknown recipe 'tow'; did you mean two? A path must end in .toml\n"
    assert main(["recipes", "absent.toml"]) == 2
    assert capsys.readouterr().err.startswith("aib recipes: no recipe at absent.toml; the nearest is ")
    assert main(["recipes", "qqqq"]) == 2
    assert capsys.readouterr().err == (
        "aib recipes: unknown recipe 'qqqq'; the nearest is small/one, aib recipes lists them all. A path must end in .toml\n"
    )
