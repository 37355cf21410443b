"""Hostile recipes, run folders, reports, tables and command lines; see `fuzzing`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import matplotlib  # noqa: F401 (it makes a folder for its settings when it is imported first)
import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save_file

from aib.backbones import create_backbone
from aib.cli import COMMANDS, main
from aib.data import open_data
from aib.paper.scores import read_scores, table2
from aib.paper.tables import compare_runs, read_runs, table1
from aib.report import build_report
from aib.train import loop
from aib.train.config import TrainConfig, config_from_dict, config_to_dict, read_config
from aib.train.loop import train
from aib.train.record import COLUMNS, record_run
from aib.train.results_table import update_table
from aib.train.run_data import open_run_data
from aib.train.run_folder import RunFolder, default_name
from aib.train.score_record import SCORE_COLUMNS
from aib.train.start import start_network
from aib.train.sweep import SweepRun
from aib.train.weights import load_run
from fuzz_checkpoints import PRETRAINED, copied, looked_at, resume
from fuzz_data import npy, odd_array, odd_header, zip_flags
from fuzz_images import odd_image
from fuzzing import NUMBERS, TEXTS, Case, Maker, misplace, spoil, spoil_json, strange, weighted, write_json
from report_folder import make_run, make_score_gallery, make_scores
from tiny import tiny_config, write_npz


def make_seeds(folder: Path) -> Path:
    """The valid files that cases start from: a data set, a picture, a finished run and some that can be resumed (after an epoch and
    in the middle of one), a run as a report shows it, tables of results, and weights of a network of timm."""
    data = write_npz(folder / "squares.npz", train=24, val=6, test=6)
    Image.new("RGB", (16, 16), (200, 50, 20)).save(folder / "picture.png")
    keep, step = loop._Fit._keep, loop._Fit._step

    def kept(self: Any, row: dict[str, Any]) -> None:
        keep(self, row)
        if self.folder.path.name == "begun":
            raise loop.Interrupted

    def stepped(self: Any, *arguments: Any) -> Any:
        self.stop.asked = "halfway" in self.folder.path.name and self.state.step == 4
        return step(self, *arguments)

    loop._Fit._keep, loop._Fit._step = kept, stepped  # type: ignore[method-assign]
    try:
        for name, epochs, optimizer in (("run", 1, "sgd"), ("begun", 2, "sgd"), ("halfway", 2, "sgd"), ("halfway-adam", 2, "adam")):
            with contextlib.suppress(loop.Interrupted):
                train(tiny_config(data, folder / name, epochs=epochs, batch_size=8, optimizer=optimizer, lr=0.01))
    finally:
        loop._Fit._keep, loop._Fit._step = keep, step  # type: ignore[method-assign]
    for run in ("run", "begun"):
        RunFolder(folder / run).write_json("eval/test.json", {"error": 0.5, "rate_bits": 3.0, "data": "squares", "split": "test"})
    shown = make_run(folder / "shown", names=["a", "b", "c"])
    gallery = json.loads((shown / "eval/test-gallery.json").read_text())[:2]  # a few pictures take as long as all the rest
    (shown / "eval/test-gallery.json").write_text(json.dumps(gallery))
    make_scores(shown)
    make_score_gallery(shown)
    values = dict.fromkeys((*COLUMNS, *SCORE_COLUMNS), "0.5") | {
        "recipe": "paper/cifar10/vgg", "model": "vgg", "data": "cifar10", "evaluated_on": "cifar10", "split": "test", "samples": "",
        "seed": "3", "command": "aib train --seed 3", "source": "own map", "edit": "colour window", "size": "8", "threshold": "0.9",
    }  # fmt: skip
    for name, columns in (("runs", COLUMNS), ("scores", SCORE_COLUMNS)):
        lines = [",".join(columns), *(",".join({**values, "seed": seed}[column] for column in columns) for seed in "34")]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    weights = create_backbone(PRETRAINED).state_dict()
    torch.save(weights, folder / "pretrained.pth")
    save_file(weights, folder / "pretrained.safetensors")
    return folder


def odd_toml(r: Random) -> bytes:
    """A recipe with something wrong in it."""
    tables: dict[str, Any] = config_to_dict(TrainConfig())
    for _ in range(r.choice((0, 1, 1, 1, 2))):
        table = r.choice(list(tables))
        tables[table][r.choice((*tables[table], "anchors", "latent_dim", "width", "min_std", "mean", "clip_norm"))] = strange(r)
    if r.random() < 0.3:
        tables["model"] = {"model": r.choice(("vgg_xs_aib_qt", "vgg_xs", "vgg_aib")), **strange_model(r)}
    try:
        text = tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):  # None, and what TOML has not
        text = f"[{r.choice(list(tables))}]\n{r.choice(TEXTS[3:])} = {r.choice(TEXTS)}\n".encode("utf-8", "surrogatepass")
    more = r.choice((
        "a = " + "[" * 3000 + "]" * 3000, "a." * 3000 + "a = 1", "x = " + "{a=" * 2000 + "1" + "}" * 2000, "[[optim]]\nlr = 1",
        "[optim]\nlr = " + "9" * 5000, "[optim]\nlr = " + "9" * 400, "[optim]\nlr = 1e999", "[optim]\nepochs = 2020-01-01",
        "[run]\nout = '\\u0000'", "[run]\nout = \"\\u0000\"", "[data]\ndata = \"a\\nb\"", "[data]\nmean = [1" + "0" * 400 + "]",
        "[a.b.c]\n" * 50, "'' = 1", "\ufeff", "[data]\nflip = {}", "[model]\nwidth = nan", "[optim]\nclip_norm = nan",
        "[model]\nlatent_dim = 100000000000", "[optim]\nbatch_size = 1",
    ))  # fmt: skip
    return weighted(
        r, (4, lambda: text), (3, lambda: spoil(text, r)), (2, lambda: more.encode("utf-8", "surrogatepass")),
        (1, lambda: more.encode("utf-8", "surrogatepass") + b"\n" + text),
    )  # fmt: skip


def strange_model(r: Random) -> dict[str, Any]:
    numbers = (*NUMBERS, 10**11, 10**6, 0.1, 1e-9, 1e9, float("nan"), float("inf"), 8)
    names = r.sample(("anchors", "latent_dim", "width", "min_std", "modulation", "attend", "pretrained"), r.choice((1, 1, 2)))
    return {name: r.choice(numbers) if name in ("anchors", "latent_dim", "width", "min_std") else r.choice(TEXTS) for name in names}


def recipe_case(r: Random, folder: Path, seeds: Path) -> Case:
    path = folder / "mine.toml"
    path.write_bytes(odd_toml(r))
    if r.random() < 0.01:
        misplace(path, r)

    def act() -> None:
        config = read_config(path)
        assert config_from_dict(config_to_dict(config)) == config
        default_name(config)

    return Case(act, path)


def start_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A recipe that can be read, up to its network."""
    tables: dict[str, Any] = config_to_dict(tiny_config(seeds / "squares.npz", folder / "run"))
    tables["model"] |= strange_model(r)
    if r.random() < 0.3:
        tables["data"][r.choice(("image_size", "val_fraction", "mean", "std", "boxes", "root"))] = strange(r)

    def act() -> None:
        config = config_from_dict(tables)
        data = config.data
        bundle = open_data(data.data, root=data.root, image_size=data.image_size, val_fraction=data.val_fraction, boxes=data.boxes)
        start_network(config, bundle)

    return Case(act)


def run_case(r: Random, folder: Path, seeds: Path) -> Case:
    begun = r.random() < 0.5
    run = copied(seeds, "begun" if begun else "run", folder)
    name = r.choice(
        ("model.json", "model.json", "metrics.jsonl", "config.toml", "environment.json", "origin.json", "eval/test.json")
    )
    path = run.path / name
    content = path.read_bytes()
    if name.endswith("toml"):
        changed = odd_toml(r) if r.random() < 0.5 else spoil(content, r)
    elif r.random() < 0.7:
        changed = write_json(spoil_json(json.loads(content.splitlines()[0] if name == "metrics.jsonl" else content), r)).encode()
    else:
        changed = spoil(content, r)
    path.write_bytes(changed + b"\n" * (name == "metrics.jsonl") + (content if r.random() < 0.1 else b""))
    if r.random() < 0.05:
        misplace(r.choice((path, run.last, run.best, run.weights)), r)

    def act() -> None:
        config = run.config
        if name in ("model.json", "origin.json") or r.random() < 0.2:
            looked_at(run)
            open_run_data(load_run(run.path))
        sweep_run = SweepRun({}, 0, run.path, config, ())
        sweep_run.state()
        result = sweep_run.result()
        if isinstance(result, dict) and r.random() < 0.5:
            whole = {"data": "x", "split": "test", "samples": None, "mirror": False, "error": 0.5, "error_interval": [0, 1]}
            record_run(run.path, {**whole, "last_error": None}, folder / "runs.csv", TrainConfig())
        run.truncate_metrics(1)
        assert run.finished_epochs <= 2
        if begun:
            resume(run)

    return Case(act)


def report_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A report of a run folder from a stranger."""
    run = folder / "run"
    shutil.copytree(seeds / "shown", run, copy_function=os.link)
    name = r.choice((
        "model.json", "metrics.jsonl", "config.toml", "environment.json", "eval/test.json", "eval/test.json", "eval/test.json",
        "eval/test.npz", "eval/test-gallery.json", "score/test.json", "score/test.json", "score/test-gallery.json",
        "eval/test-gallery/000.png", "eval/test-gallery/000-mask.png", "eval/test-gallery/000.npy", "eval/test-gallery/000-cam.npy",
    ))  # fmt: skip
    path = run / name
    content = path.read_bytes()
    path.unlink()  # it is a link to the seed
    if r.random() < 0.03:
        misplace(path, r)
    elif path.suffix == ".png":
        path.write_bytes(odd_image(r))
    elif path.suffix == ".npy":
        array = odd_array(r, np.zeros((4, 4), np.float32))
        path.write_bytes(weighted(r, (1, lambda: spoil(content, r)), (1, lambda: npy(array)), (1, lambda: odd_header(r))))
    elif path.suffix == ".npz":
        path.write_bytes(zip_flags(content, r) if r.random() < 0.3 else spoil(content, r))
    elif path.suffix == ".toml":
        path.write_bytes(odd_toml(r))
    elif r.random() < 0.85:
        changed = write_json(spoil_json(json.loads(content.splitlines()[0] if name == "metrics.jsonl" else content), r)).encode()
        path.write_bytes(changed + b"\n" * (name == "metrics.jsonl") + (content if r.random() < 0.1 else b""))
    else:
        path.write_bytes(spoil(content, r))

    def act() -> None:
        page = build_report([run], folder / "report.html").read_text(encoding="utf-8")
        assert "<script>alert" not in page, "markup of a stranger on the page"
        assert "root:x:0:0" not in page, "a file from outside on the page"

    return Case(act, run)


def table_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A table of results with something wrong in it, read and added to."""
    kind = r.choice(("runs", "scores"))
    path, rows = folder / "runs.csv", (seeds / f"{kind}.csv").read_text()
    columns = COLUMNS if kind == "runs" else SCORE_COLUMNS
    lines = rows.splitlines()
    cells = lines[1].split(",")
    value = r.choice((*TEXTS, *map(str, NUMBERS), "1e400", "nan", "9" * 5000)).replace("\n", " ").replace(",", ";")
    cells[r.randrange(len(cells))] = value
    path.write_bytes(weighted(
        r, (3, lambda: spoil(rows.encode(), r)), (4, lambda: f"{lines[0]}\n{','.join(cells)}\n".encode("utf-8", "surrogatepass")),
        (1, lambda: (rows + r.choice(("1,2,3", "1", "", '"', '"a\nb",c', "x" * 200_000 + ",1", "\0,\0"))).encode()),
    ))  # fmt: skip
    if r.random() < 0.02:
        misplace(path, r)

    def act() -> None:
        if kind == "scores":
            table2(read_scores(path))
        else:
            runs = read_runs(path)
            table1(runs)
            compare_runs(runs, "paper/cifar10/vgg")

    def add() -> None:
        update_table(path, columns, columns[:1], columns, [dict.fromkeys(columns, r.choice(TEXTS[:5]))])

    # of a recipe without runs the message names those that there are, not the file
    return Case(add, path) if r.random() < 0.3 else Case(act)


def arguments_case(r: Random, folder: Path, seeds: Path) -> Case:
    """A command line that is wrong somewhere; what it would do at most is small."""
    verb = r.choice([*COMMANDS, "train", "eval", "explain", "recipes", *TEXTS[:3]])
    options = (
        "--data", "--out", "--epochs", "--lr", "--mean", "--flip", "--no-flip", "--recipe", "--resume", "--seed", "--split",
        "--samples",
        "--runs", "--device", "--image-size", "--depth", "--rows", "--record", "--model", "--attend", "--vary", "--set", "--seeds",
        "--help", "--scale", "--labels", "--config.data.data", "--step-epochs", "--", "-", "--epochs=3", "--lr=", "--title",
        "--gpus",
    )  # fmt: skip
    for name in ("run", "begun"):  # of its own, as a command line that is right by chance writes there
        shutil.copytree(seeds / name, folder / name)
    values = (
        str(folder / "run"), str(folder / "begun"), str(seeds / "picture.png"), str(folder / "none"), "3", "0", "1e5", "nan",
        "True", "cpu",
        "resnet18", "beta=1,2", "paper/cifar10", "9" * 5000, *(text for text in TEXTS if "\0" not in text and "\ud83d" not in text),
    )  # fmt: skip
    words = [r.choice((r.choice(options), r.choice(values))) for _ in range(r.randrange(6))]
    if verb in ("bench", "demo", "sweep", "train", "score") and "--help" not in words:  # never more than the mistake
        words += ["--never"] if r.random() < 0.7 else ["--data", str(folder / "none")] if verb == "train" else ["--never", "3"]
    said, errors = io.StringIO(), io.StringIO()

    def act() -> None:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code = main([verb, *words] if verb else words)
        lines = errors.getvalue().splitlines()
        assert code in (0, 1, 2), f"exit code {code} of {verb} {words}"
        assert len(lines) == (code == 2), f"{lines} of {verb} {words}"

    return Case(act)


MAKERS: dict[str, Maker] = {
    "recipe": recipe_case, "start": start_case, "run": run_case, "report": report_case, "table": table_case,
    "arguments": arguments_case,
}  # fmt: skip
