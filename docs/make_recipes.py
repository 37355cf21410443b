"""The recipes of table 1, one for every model and data set with a published error: python docs/make_recipes.py

Rewrites src/aib/recipes/paper and src/aib/recipes/reference. Measured values, hardware and time come from results/runs.csv. Every
option that decides a run is written out, also where it is the package's default or the network's own: a row of the table must not
change with a default. The settings are those of the paper and of its published code, the second turned into this package's units:

- The published code's cross-entropy and KL are in bits. In nats the same steps of SGD are made with a learning rate 1 / ln 2 times
  as large, and weight decay and squared terms ln 2 times as large. Adam does not see the scale of its gradient, of which weight
  decay is a part (L2): the learning rate stays, weight decay and squared terms are ln 2 times as large here too.
- Its VGG halves the KL.
- It normalises with fixed numbers: VGG with those of CIFAR-100, WRN with those that circulate for CIFAR-10, both with 0.5 on SVHN.
- It means the anchors to learn 1e-4 times as fast; on GPUs its VGG loses that.
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
from aib.data.cub import SIDE
from aib.models.registry import create_model, option_defaults
from aib.paper.tables import NOT_RUN, counted, published, read_runs, table1
from aib.train.config import MACHINE, ModelConfig, config_from_dict, config_to_dict
from aib.train.convert import published_normalization

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "aib" / "recipes"
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "cub200": "CUB-200-2011"}
CUB_CLASSES = 200
WITH_LATENT = ("vgg_dvib", "vgg_aib", "vgg_aib_qt", "wrn_aib", "wrn_aib_qt")
"""Models that the paper and its code train differently."""
LN2 = math.log(2.0)

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


def settings(model: str, data: str, convention: str) -> dict[str, dict[str, Any]]:
    """What the paper or its code say."""
    vgg, cub, latent = model.startswith("vgg"), data == "cub200", model in WITH_LATENT
    tables: dict[str, dict[str, Any]] = {
        "data": {"data": data},
        "model": {"model": f"{model}_cub" if cub else model},
        "optim": {"epochs": 200, "batch_size": 16 if cub else 128, "weight_decay": 5e-4, "schedule": "step"},
    }
    optim = tables["optim"]
    tables["data"]["flip"] = True
    if cub:
        tables["data"] |= {"image_size": SIDE, "boxes": "crop"}
        tables["model"]["pretrained"] = "yes"
        optim |= {"optimizer": "adam", "lr": 1e-4, "momentum": 0.5, "step_epochs": list(range(2, 200, 2)), "step_factor": 0.97}
    else:
        tables["data"] |= {"image_size": BENCHMARKS[data].side, "crop_padding": 4}
        optim |= {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False}
        if vgg:
            optim |= {"warmup_epochs": 1.0, "step_epochs": list(range(25, 200, 25)), "step_factor": 0.5}
        else:
            optim |= {"step_epochs": [60, 120, 160], "step_factor": 0.2}
    if latent:
        optim["beta"] = 0.01
    if model.endswith("_qt"):
        optim |= {"lambda_anchor": 0.4, "lambda_commitment": 0.1, "anchor_lr_scale": 1e-4}
    if convention == "reference":
        if not cub:
            mean, std = published_normalization(model, data)
            tables["data"] |= {"mean": list(mean), "std": list(std)}
        optim["kl"] = "reference"
        if vgg and not cub:
            optim["beta"] = 0.005
        if model.endswith("_qt"):
            optim |= {"lambda_anchor": round(0.4 * LN2, 6), "lambda_commitment": round(0.1 * LN2, 6)}
            if vgg:
                optim["anchor_lr_scale"] = 1.0
        optim["weight_decay"] = round(5e-4 * LN2, 9)
        if not cub:
            optim["lr"] = round(0.1 / LN2, 6)
    return tables


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
                    f"Table 1, {model} on {title}, {how}.",
                    f"published: {line[data]} % error",
                    f"measured: {ours if ours == NOT_RUN else f'{ours} % error (seeds), results/runs.csv'}",
                    f"hardware, time: {hardware_and_time(runs, name)}",
                    f"command: aib train --recipe {name}",
                ]
                if data == "cifar10" and line["stl10_test"]:
                    stl = "aib eval RUN --data stl10 --labels by-index"
                    header.append(f"also table 1's STL-10, published {line['stl10_test']} % on test: {stl}")
                lines = tomli_w.dumps(complete(settings(model, data, convention), classes))
                yield name, "".join(f"# {text}\n" for text in header) + _short_arrays(lines)


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
