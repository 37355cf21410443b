"""A recipe for every cell of table 1, in two conventions where they differ: complete, and the trainer takes a step of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from aib.classifier import Classifier
from aib.data.bundle import DataBundle
from aib.loss import objective
from aib.models.build import build_model
from aib.models.registry import takes
from aib.paper.tables import published, read_runs
from aib.recipes import FOLDER, list_recipes, load_recipe, recipe_path
from aib.train import loop
from aib.train.config import DataConfig, ModelConfig, TrainConfig, read_config
from aib.train.fabric import make_fabric
from aib.train.optim import lr_factor
from aib.train.processes import World
from aib.train.run_data import open_training_data
from aib.train.run_folder import RunFolder
from layouts import write_cifar, write_cub, write_svhn
from scripts import load_script
from test_config import changed

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "cub200": 200}
CELLS = [(line["model"], data) for line in published("table1") for data in CLASSES if line[data]]
LATENT = ("vgg_dvib", "vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt")
NAMES = [f"paper/{data}/{model}" for model, data in CELLS]
NAMES += [f"reference/{data}/{model}" for model, data in CELLS if model in LATENT]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return load_script("make_recipes")


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


CHOSEN_BY_WHO_RUNS = {
    "root", "download", "skip_bad", "workers",  # where the images lie and how they are read; no file of a benchmark is bad
    "recipe", "out", "seed", "device", "devices", "accumulate", "checkpoint_minutes", "quiet",
    "channels_last", "compile", "compile_mode",  # how the machine is used best; neither changes what is computed but by rounding
}  # fmt: skip
"""Options that no recipe names."""
NONE_OF = {"attend", "min_std", "clip_norm"}
"""Options that no recipe of table 1 has: they are for other networks, or off without a value, which TOML cannot write."""


def without_meaning(name: str) -> set[str]:
    """Options that have none for a recipe's network or data."""
    _, data, model = name.split("/")
    cub, attentive, quantized = data == "cub200", "_aib" in model, model.endswith("_qt")
    return (
        ({"width", "nesterov"} if cub else {"pretrained", "boxes"})
        | (set() if model in LATENT else {"latent_dim", "beta", "beta_warmup_epochs", "kl"})
        | (set() if attentive else {"modulation", "lambda_sparsity"})
        | (set() if quantized else {"anchors", "lambda_anchor", "lambda_commitment", "anchor_lr_scale", "revive_anchors"})
    )


@pytest.mark.parametrize("convention", ["paper", "reference"])
def test_recipes_name_every_option_that_decides_a_run(convention: str) -> None:
    # so no default that is changed some day changes a row of the table
    for name in (name for name in NAMES if name.startswith(convention)):
        here, elsewhere = (read_config(recipe_path(name), base=base) for base in (TrainConfig(), changed()))
        left = {
            option.name
            for table in fields(TrainConfig)
            for option in fields(getattr(here, table.name))
            if getattr(getattr(here, table.name), option.name) != getattr(getattr(elsewhere, table.name), option.name)
        }
        assert left == CHOSEN_BY_WHO_RUNS | NONE_OF | without_meaning(name), name


@pytest.mark.parametrize("name", ["paper/cifar10/vgg_aib_qt", "paper/cifar100/wrn_aib_qt", "paper/cub200/vgg_dvib"])
def test_what_a_recipe_says_of_its_network_is_what_the_network_has_by_itself(name: str) -> None:
    m = load_recipe(name).model
    options = {"anchors": m.anchors, "latent_dim": m.latent_dim, "modulation": m.modulation, "width": m.width}
    with torch.device("meta"):
        said, silent = (build_model(m.model, CLASSES[name.split("/")[1]], **given) for given in (options, {}))
    assert {k: v.shape for k, v in said.state_dict().items()} == {k: v.shape for k, v in silent.state_dict().items()}
    assert getattr(said, "modulation", None) == getattr(silent, "modulation", None)


def test_hardware_and_time_are_those_of_the_runs_that_count(maker: ModuleType) -> None:
    name = "paper/svhn/vgg"
    base = {"recipe": name, "model": "vgg", "data": "svhn", "split": "test", "samples": "", "hardware": "NVIDIA H100",
            "seconds": "7200", "seed": "0"}  # fmt: skip
    run = {**base, "command": f"aib train --recipe {name} --seed 0"}
    other = {**run, "seed": "1", "seconds": "10800", "command": f"aib train --recipe {name} --seed 1"}
    short = {**run, "seed": "2", "seconds": "1", "command": f"aib train --recipe {name} --epochs 1 --seed 2"}
    network = {**run, "seed": "3", "seconds": "1", "model": "vgg_cbam", "command": f"{run['command']} --model vgg_cbam"}
    assert maker.hardware_and_time([run, other, short, network, {**run, "recipe": "mine"}], name) == "NVIDIA H100, 2.5 hours a run"
    assert maker.hardware_and_time([short], name) == "not run"


# --- a step of the trainer on tiny data


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[TrainConfig], DataBundle]]:
    """The data of a recipe, opened by its own settings from tiny files in the official layout."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        write_cifar(root, patch)
        write_svhn(root, patch)
        write_cub(root)

        @cache
        def opened(config: DataConfig) -> DataBundle:
            return open_training_data(config)

        yield lambda config: opened(replace(config.data, root=str(root), workers=0))


@lru_cache(maxsize=2)  # those of CUB take gigabytes together
def network(chosen: ModelConfig, num_classes: int) -> tuple[Classifier, dict[str, torch.Tensor]]:
    """The network of a recipe, which recipes share, and its start."""
    torch.manual_seed(0)
    model = build_model(
        chosen.model, num_classes, anchors=chosen.anchors, latent_dim=chosen.latent_dim, modulation=chosen.modulation,
        min_std=chosen.min_std, width=chosen.width,
    )  # fmt: skip
    return model, {key: value.clone() for key, value in model.state_dict().items()}


def step(name: str, bundles: Callable[[TrainConfig], DataBundle], **small: int) -> None:
    """One step of the trainer with all that the recipe says, but for the network's width and the batches' size."""
    config = load_recipe(name)
    config = replace(
        config, data=replace(config.data, **small), optim=replace(config.optim, batch_size=2), run=replace(config.run, device="cpu")
    )
    bundle = bundles(config)
    narrow = {"vgg": 1 / 16, "wrn": 0.1}[name.split("/")[2][:3]] if "/cub200/" not in name else config.model.width
    model, start = network(replace(config.model, width=narrow, pretrained=None), bundle.num_classes)
    quantizer = getattr(model, "quantizer", None)
    assert config.model.anchors in (None, quantizer.num_anchors if quantizer is not None else None)
    model.load_state_dict(start)
    model.train()
    fit = loop._Fit(config, RunFolder(Path("unused")), make_fabric(config, World()), model, bundle, {}, None, "")
    batch = next(iter(bundle.train.batches([torch.tensor([0, len(bundle.train) - 1])], train=True)))
    for group in fit.optimizer.param_groups:
        group["lr"] = group["base_lr"]
    parts, errors = fit._step(batch.images, batch.labels, 1.0, flip=False)
    assert 0 <= int(errors) <= 2
    assert all(bool(value.isfinite()) for value in parts.values())
    kind = name.split("/")[2]
    assert ("rate_loss" in parts, "anchor_loss" in parts) == (kind in LATENT, kind.endswith("_qt"))
    if kind in LATENT:  # the divergence is the recipe's own; the rate that is shown is always the paper's, which is larger here
        charged, shown = parts["rate_loss"].item(), config.optim.beta * parts["rate"].item()
        assert charged == pytest.approx(shown) if config.optim.kl == "paper" else charged < 0.5 * shown
    assert type(fit.optimizer.optimizer) is {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optim.optimizer]
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    if config.optim.anchor_lr_scale == 0:
        assert torch.equal(model.quantizer.anchors, start["quantizer.anchors"])
    weights = {key: value for key, value in model.named_parameters() if value.ndim > 1}
    assert [key for key, value in weights.items() if torch.equal(value, start[key])] == []
    assert all(bool(value.isfinite().all()) for value in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if "/cub200/" not in name])
def test_the_trainer_takes_a_step_of_a_recipe(name: str, bundles: Callable[[TrainConfig], DataBundle]) -> None:
    step(name, bundles)


SOON = "paper/cub200/vgg_aib_qt"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == SOON else pytest.mark.slow) for name in NAMES if "/cub200/" in name]
)
def test_the_trainer_takes_a_step_of_a_recipe_for_cub(name: str, bundles: Callable[[TrainConfig], DataBundle]) -> None:
    config = load_recipe(name)
    assert (config.data.image_size, config.data.boxes) == (224, "crop")
    assert config.model.pretrained == "yes"  # the weights themselves need the network
    assert takes(config.model.model, "pretrained")
    step(name, bundles, image_size=64)


def test_every_parameter_of_the_networks_for_cub_learns() -> None:
    for model in sorted({load_recipe(name).model.model for name in NAMES if "/cub200/" in name}):
        with torch.device("meta"):
            built = build_model(model, 200).train()
            parts = objective(built.forward_details(torch.zeros(2, 3, 224, 224)), torch.zeros(2, dtype=torch.int64))
            parts["loss"].backward()
        assert [key for key, value in built.named_parameters() if value.grad is None] == []


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
    # Adam's step has the length lr whatever the scale of the loss; there without weight decay, and the anchors stay
    ours, theirs = load_recipe("paper/cub200/vgg_aib_qt").optim, load_recipe("reference/cub200/vgg_aib_qt").optim
    assert (theirs.optimizer, theirs.momentum, theirs.lr) == ("adam", 0.5, ours.lr)
    assert (theirs.weight_decay, theirs.anchor_lr_scale) == (0.0, 0.0)
    for term in ("lambda_anchor", "lambda_commitment"):
        assert getattr(theirs, term) == pytest.approx(getattr(ours, term) * math.log(2), rel=1e-5)
    assert theirs.beta == ours.beta


@pytest.mark.parametrize(("model", "lr"), [("vgg_aib", 0.01), ("vgg_dvib", 0.01), ("vgg_aib_qt", 0.001)])
def test_the_references_vgg_learns_as_fast_as_the_published_scheduler_says(model: str, lr: float) -> None:
    def factor(epoch: int) -> float:  # of the command's --lr; 0.1 is reached after one epoch or after two
        if lr == 0.01 and epoch == 1:
            return 1.0
        return 10.0 ** (epoch - 1) if lr == 0.001 and epoch < 3 else 0.1 / lr * 0.5 ** (epoch // 25)

    optim = load_recipe(f"reference/cifar10/{model}").optim
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for epoch in range(200):
        optimizer.step()
        scheduler.step()  # before the epoch, as there
        (theirs,) = scheduler.get_last_lr()
        ours = [optim.lr * lr_factor(epoch * 5 + step, 5, optim) * math.log(2) for step in range(5)]
        assert ours == pytest.approx([theirs] * 5, rel=1e-5), epoch


def test_headers_say_what_a_recipe_does_otherwise() -> None:
    def header(name: str) -> str:
        lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 132
        return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))

    every = {name: header(name) for name in NAMES}
    assert all("a tenth of the training images is held out" in text for text in every.values())
    assert all("45,000 of 50,000" in text for name, text in every.items() if "/cifar" in name)
    for name, text in every.items():
        convention, data, model = name.split("/")
        assert ("--split train" in text) == (data == "cifar10" and model != "wrn"), name
        assert ("no published code of vgg_dvib" in text) == (convention == "reference" and model == "vgg_dvib"), name
        assert ("gain sqrt(2)" in text or "with sqrt(2)" in text) == (convention == "reference" and model.startswith("vgg")), name
        assert ("beta counts in full from the first step" in text) == (convention == "paper" and model in LATENT), name
    assert "1,153 nats" in every["paper/cifar10/vgg_aib"]  # 256 times that of softplus(-5)
