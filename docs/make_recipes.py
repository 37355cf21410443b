"""The recipes of table 1, one for every model and data set with a published error: python docs/make_recipes.py

Rewrites src/aib/recipes/paper and src/aib/recipes/reference. Measured values, hardware and time come from results/runs.csv. Every
option that decides a run is written out, also where it is the package's default or the network's own: a row of the table must not
change with a default. The settings are those of `aib.train.published`; what the runs do otherwise than the paper or its code, and
no setting can say, stands in the header.
"""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
import torch

from aib.classifier import AttentiveClassifier
from aib.data.benchmarks import BENCHMARKS
from aib.functional import STD_OFFSET
from aib.models.registry import create_model, option_defaults
from aib.paper.counting import counted
from aib.paper.tables import NOT_RUN, published, read_runs, table1
from aib.train.config import MACHINE, ModelConfig, config_from_dict, config_to_dict
from aib.train.published import WITH_LATENT, published_settings

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "aib" / "recipes"
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "cub200": "CUB-200-2011"}
CUB_CLASSES = 200
START_STD = math.log1p(math.exp(STD_OFFSET))
STL = "aib eval RUN --data stl10 --labels by-index"
START_NATS = -math.log(START_STD) - 0.5 + START_STD**2 / 2
"""Of the paper's KL for each latent dimension, while all means are 0."""
LEFT_OUT = (
    *MACHINE,
    "recipe",
    "out",
    "seed",
    "root",
    "download",
    "skip_bad",
    "workers",
    "channels_last",
    "compile",
    "compile_mode",
)
"""Options that a recipe leaves to whoever runs it: of the machine and the folders, and the seed."""
NEEDS = {
    "beta": "latent_dim", "beta_warmup_epochs": "latent_dim", "kl": "latent_dim",
    "lambda_anchor": "anchors", "lambda_commitment": "anchors", "anchor_lr_scale": "anchors", "revive_anchors": "anchors",
    "lambda_sparsity": "modulation",
}  # fmt: skip
"""Options of the training without a meaning for a network that lacks another: without a latent there is no rate."""


@cache
def network_options(name: str, num_classes: int) -> dict[str, Any]:
    """The options of a network that a recipe can set, as it has them when nothing is said; those it goes without are absent."""
    known = {field.name for field in fields(ModelConfig)}
    options = {key: value for key, value in option_defaults(name).items() if key in known}
    if "anchors" in options and options["anchors"] is None:  # the network's own choice, if it has any
        with torch.device("meta"):
            network = create_model(name, num_classes)
        assert isinstance(network, AttentiveClassifier)
        options["anchors"] = None if network.quantizer is None else network.quantizer.anchors.numel()
    return {key: value for key, value in options.items() if value is not None}


def complete(tables: dict[str, dict[str, Any]], num_classes: int) -> dict[str, dict[str, Any]]:
    """``tables`` with every other option that decides the run, in the order of the configuration."""
    network = network_options(tables["model"]["model"], num_classes)
    tables = {**tables, "model": {**network, **tables["model"]}}
    resolved = config_to_dict(config_from_dict(tables))
    unused = {option for option, needed in NEEDS.items() if needed not in tables["model"]}
    if tables["optim"]["optimizer"] != "sgd":
        unused.add("nesterov")
    return {
        table: {option: value for option, value in options.items() if option not in LEFT_OUT and option not in unused}
        for table, options in resolved.items()
    }


def recipes(runs: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Name and text of every recipe."""
    measured: Mapping[str, Any] = {convention: table1(runs, convention) for convention in ("paper", "reference")}
    for convention in measured:
        columns, rows = measured[convention].columns, {row[0]: row for row in measured[convention].rows}
        for line in published("table1"):
            model = line["model"]
            if convention == "reference" and model not in WITH_LATENT:
                continue
            for data, title in DATA.items():
                if not line[data]:
                    continue
                name = f"{convention}/{data}/{model}"
                ours = rows[model][columns.index(data)].partition(" / ")[2]
                how = "as the paper writes it" if convention == "paper" else "as its published code runs it"
                classes = CUB_CLASSES if data == "cub200" else BENCHMARKS[data].classes
                header = [
                    f"Table 1 on {title}, {how}.",
                    f"published: {line[data]} % error",
                    f"measured: {ours if ours == NOT_RUN else f'{ours} % error (seeds), results/runs.csv'}",
                    f"hardware, time: {hardware_and_time(runs, name)}",
                    f"command: aib train --recipe {name}",
                ]
                if data == "cifar10" and line["stl10_test"]:
                    header += [
                        f"STL-10, also in table 1, published on test {line['stl10_test']} %: {STL}",
                        f"and on train {line['stl10_train']} %: {STL} --split train",
                    ]
                header += [f"otherwise: {text}" for text in otherwise(model, data, convention)]
                lines = tomli_w.dumps(complete(published_settings(model, data, convention), classes))
                yield name, "".join(f"{_comment(text)}\n" for text in header) + _short_arrays(lines)


def otherwise(model: str, data: str, convention: str) -> list[str]:
    """What the recipe does otherwise than the paper or its published code, and no setting can say."""
    vgg, cub, latent = model.startswith("vgg"), data == "cub200", model in WITH_LATENT
    held = "a tenth of the training images is held out and chooses the epoch" + " (45,000 of 50,000 train)" * data.startswith(
        "cifar"
    )
    if convention == "paper":
        found = [f"{held}; the paper says nothing of what chooses it"]
        if latent:
            nats = START_NATS * (512 if not vgg and not cub else 256)
            found.append(
                f"beta counts in full from the first step, for the paper says nothing of a warm-up (--beta-warmup-epochs); the KL "
                f"is {nats:,.0f} nats at the start"
            )
        if cub:
            found.append(
                "Adam, its rates, 16 images a batch and the normalisation, ImageNet's, are the published code's; the paper writes "
                "SGD for all data"
            )
        return found
    found = [f"{held}; there all images train (--val-fraction 0, for the last epoch) and the least test error chooses it"]
    if model == "vgg_dvib":
        found.append("there is no published code of vgg_dvib; the settings are those of vgg_aib")
    if data == "svhn":
        found.append("there is no published command for SVHN; the settings are those of CIFAR-10")
    if cub:
        found.append("images are scaled to 224 x 224; there to 256 x 256, cropped to 224 at random, in the middle for the test")
    if vgg and cub:
        found.append("new layers start by Xavier with gain 1; there with sqrt(2)")
    elif vgg:
        found.append(
            "the network starts by Xavier with gain 1 and batch normalisation at 1; there with gain sqrt(2) and batch "
            "normalisation uniform between 0 and 1"
        )
    elif cub:
        found.append("the attention branch starts as a copy of ImageNet's fourth group; there anew, by He's normal of fan-out")
    else:
        found.append("arithmetic is of 32 bits; there mixed, 16 and 32 (apex O1); here --precision 16-mixed")
    if model.endswith("_qt") and not cub:
        found.append("anchors have no weight decay; there they have that of all parameters")
    draws = 12 if cub else 4
    found.append(f"the test takes the mean path; there {draws} x {draws} draws (aib eval RUN --samples {draws} {draws})")
    return found


def _comment(text: str) -> str:
    """A line of a header as comments of the repository's width."""
    return textwrap.fill(text, 132, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False, break_long_words=False)


def hardware_and_time(runs: list[dict[str, str]], name: str) -> str:
    """What the recorded runs of a recipe, unchanged, were trained on and for how long on average; `NOT_RUN` without one."""
    trained = counted(runs, name)
    if not trained:
        return NOT_RUN
    hours = statistics.fmean(float(run["seconds"]) for run in trained) / 3600
    return f"{', '.join(sorted({run['hardware'] for run in trained}))}, {hours:.1f} hours a run"


def _short_arrays(text: str) -> str:
    """TOML with arrays of numbers on as few lines of the repository's length as they take."""

    def joined(match: re.Match[str]) -> str:
        items = " ".join(match[0].split()).replace("[ ", "[").replace(", ]", "]")
        return textwrap.fill(items, 128, subsequent_indent="    ", break_on_hyphens=False)

    return re.sub(r"^\w+ = \[\n.*?^\]", joined, text, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write every recipe and remove those that are no more."""
    kept = set()
    for name, text in recipes(read_runs(ROOT / "results" / "runs.csv")):
        path = TARGET / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        kept.add(path)
    for convention in ("paper", "reference"):
        for path in set((TARGET / convention).rglob("*.toml")) - kept:
            path.unlink()
    print(f"{len(kept)} recipes in {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
