"""A recipe for every cell of table 1, in two conventions where they differ; each builds its model and takes a step."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from aib.loss import objective
from aib.models import create_model
from aib.models.build import build_model
from aib.models.registry import takes
from aib.paper.tables import published, read_runs
from aib.recipes import FOLDER, list_recipes, load_recipe
from aib.train.config import TrainConfig
from aib.train.optim import build_optimizer, lr_factor

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "cub200": 200}
CELLS = [(line["model"], data) for line in published("table1") for data in CLASSES if line[data]]
LATENT = ("vgg_dvib", "vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt")
NAMES = [f"paper/{data}/{model}" for model, data in CELLS]
NAMES += [f"reference/{data}/{model}" for model, data in CELLS if model in LATENT]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_recipes", ROOT / "docs" / "make_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_of_table_1_has_its_recipes() -> None:
    packaged = [recipe.name for recipe in list_recipes() if recipe.name.startswith(("paper/", "reference/"))]
    assert sorted(packaged) == sorted(NAMES)
    assert Counter(name.split("/")[0] for name in packaged) == {"paper": 46, "reference": 20}
    values = {(line["model"], data): line[data] for line in published("table1") for data in CLASSES}
    for recipe in list_recipes():
        if recipe.name in NAMES:
            _, data, model = recipe.name.split("/")
            assert recipe.published == f"{values[model, data]} % error"
            assert recipe.measured


def test_the_files_are_those_that_the_script_makes(maker: ModuleType) -> None:
    made = dict(maker.recipes(read_runs(ROOT / "results" / "runs.csv")))
    assert sorted(made) == sorted(NAMES)
    for name, text in made.items():
        assert (FOLDER / f"{name}.toml").read_text(encoding="utf-8") == text, f"{name}: run python docs/make_recipes.py"


def one_step(config: TrainConfig, num_classes: int, size: int, **narrow: float) -> float:
    """The loss before a step on random images, after which every weight has moved."""
    m = config.model
    model = create_model(m.model, num_classes, **narrow).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, config.optim, torch.device("cpu"))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"]
    o = config.optim
    parts = objective(
        model.forward_details(torch.randn(4, 3, size, size)), torch.arange(4), o.beta, kl=o.kl, lambda_anchor=o.lambda_anchor,
        lambda_commitment=o.lambda_commitment,
    )  # fmt: skip
    parts["loss"].backward()
    optimizer.step()
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name]) and "anchors" not in name]
    assert still == []
    return parts["loss"].item()


@pytest.mark.parametrize("name", [name for name in NAMES if "/cub200/" not in name])
def test_a_recipe_takes_a_step_with_a_narrow_form_of_its_model(name: str) -> None:
    torch.manual_seed(0)
    config = load_recipe(name)
    narrow = {"width": 0.1} if config.model.model.startswith("wrn") else {"width": 0.0625}
    assert math.isfinite(one_step(config, CLASSES[name.split("/")[1]], 32, **narrow))


@pytest.mark.parametrize("name", [name for name in NAMES if "/cub200/" in name])
def test_a_recipe_for_cub_builds_its_network_and_takes_a_step_in_shapes(name: str) -> None:
    config = load_recipe(name)
    assert config.model.pretrained == "yes"
    assert takes(config.model.model, "pretrained")
    with torch.device("meta"):
        model = build_model(config.model.model, 200).train()
        parts = objective(model.forward_details(torch.zeros(2, 3, 224, 224)), torch.zeros(2, dtype=torch.int64), config.optim.beta)
        parts["loss"].backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_the_published_courses_of_the_learning_rate() -> None:
    def rate(name: str, epoch: float) -> float:
        optim = load_recipe(name).optim
        return optim.lr * lr_factor(round(epoch * 100), 100, optim)

    vgg, wrn, cub = "paper/cifar10/vgg_aib_qt", "paper/cifar10/wrn_aib_qt", "paper/cub200/vgg_aib_qt"
    assert [rate(vgg, e) for e in (1, 24.9, 25, 199)] == pytest.approx([0.1, 0.1, 0.05, 0.1 / 2**7])
    assert rate(vgg, 0) < 0.01
    assert [rate(wrn, e) for e in (0, 60, 120, 160)] == pytest.approx([0.1, 0.02, 0.004, 0.0008])
    assert [rate(cub, e) for e in (0, 2, 199)] == pytest.approx([1e-4, 0.97e-4, 1e-4 * 0.97**99])


def test_the_references_units_are_ours() -> None:
    # its loss in bits, its step of SGD: p - lr * (gradient / ln 2 + decay * p), with half the KL for VGG
    ours, theirs = load_recipe("paper/cifar10/vgg_aib_qt").optim, load_recipe("reference/cifar10/vgg_aib_qt").optim
    assert theirs.lr == pytest.approx(ours.lr / math.log(2), rel=1e-5)
    assert theirs.lr * theirs.weight_decay == pytest.approx(ours.lr * ours.weight_decay, rel=1e-5)
    assert theirs.lr * theirs.lambda_anchor == pytest.approx(ours.lr * ours.lambda_anchor, rel=1e-5)
    assert theirs.beta == ours.beta / 2
    assert theirs.kl == "reference"
