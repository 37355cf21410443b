"""Checkpoints are written whole or not at all, and those of strangers are refused; killed processes are in `test_faults.py`."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import short_runs
from aib.train import loop
from aib.train.checkpoint import FORMAT, link, load_checkpoint, save_checkpoint, strip_prefixes, write_atomically
from aib.train.config import TrainConfig
from aib.train.loop import Interrupted, train
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run, save_weights
from short_runs import STEPS, AfterStep, interrupt
from tiny import outcome, same, tiny_config

data, whole, after_step = short_runs.data, short_runs.whole, short_runs.after_step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, lambda path: path.write_text("old") and None)

    def fail(path: Path) -> None:
        path.write_text("half of the n")
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_of_the_disk_names_the_file_that_was_to_be(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "file", fail)
    assert caught.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError, match="No such file") as caught:
        write_atomically(tmp_path / "absent" / "file", lambda path: path.write_text("x") and None)
    assert caught.value.filename == str(tmp_path / "absent" / "file")


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write(path: Path) -> None:
        path.write_text("new")
        assert target.read_text() == "old"
        assert path.parent == target.parent  # a rename across file systems would not be one step

    write_atomically(target, write)
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_state_comes_back_as_it_was_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    states = [{"model": {"w": torch.randn(3, 2)}, "state": {"epoch": epoch, "best": float("inf")}} for epoch in range(3)]
    for state in states:
        save_checkpoint(path, state)
    assert same(load_checkpoint(path), {"format": FORMAT, **states[2]})
    assert same(load_checkpoint(tmp_path / "previous.ckpt"), {"format": FORMAT, **states[1]})
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]


def test_a_state_that_cannot_be_written_leaves_both_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for epoch in range(2):
        save_checkpoint(path, {"epoch": epoch})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"epoch": lambda: None})
    assert load_checkpoint(path)["epoch"] == 1
    assert load_checkpoint(tmp_path / "previous.ckpt")["epoch"] in (0, 1)
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]


def test_prefixes_of_wrappers_are_stripped() -> None:
    weights = {"module.a": 1, "_orig_mod.b": 2, "module._orig_mod.c": 3, "d._orig_mod.e": 4, "submodule.f": 5}
    assert strip_prefixes(weights) == {"a": 1, "b": 2, "c": 3, "d.e": 4, "submodule.f": 5}  # type: ignore[arg-type, comparison-overlap]


# --- reading


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused_and_the_one_before_is_whole(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.ckpt"
    for epoch in range(2):
        save_checkpoint(path, {"epoch": epoch, "weights": torch.randn(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"last.ckpt is cut or damaged$") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "previous.ckpt")["epoch"] == 0


def test_a_damaged_checkpoint_is_refused_or_read_right(tmp_path: Path) -> None:
    """Flipped bytes anywhere: never a traceback of another kind."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"epoch": 7, "weights": torch.zeros(100)})
    whole = path.read_bytes()
    chooser, messages = random.Random(0), []
    for _ in range(60):
        place = chooser.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load_checkpoint(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all("\n" not in message and str(path) in message for message in messages)


def test_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"format": FORMAT + 1}, path)
    with pytest.raises(ValueError, match=rf"has checkpoint format {FORMAT + 1}; this version of aib reads format {FORMAT}"):
        load_checkpoint(path)
    for stranger in ({"state_dict": {}}, [1, 2], torch.zeros(2), {"format": "a\nb"}, {"format": 10**400}, {"format": True}):
        torch.save(stranger, path)
        with pytest.raises(ValueError, match="is no checkpoint of this package"):
            load_checkpoint(path)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent.ckpt")


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    path, exploded = tmp_path / "last.ckpt", tmp_path / "exploded"
    torch.save({"format": FORMAT, "model": _Bomb(exploded)}, path)
    with pytest.raises(ValueError, match=r"UnpicklingError"):
        load_checkpoint(path)
    assert not exploded.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert exploded.exists()


# --- a run's


def test_in_the_place_of_a_cut_last_checkpoint_steps_the_previous_one(
    whole: RunFolder, data: Path, tmp_path: Path, after_step: AfterStep, capsys: pytest.CaptureFixture[str]
) -> None:
    after_step(STEPS + 3, interrupt)
    with pytest.raises(Interrupted):
        train(tiny_config(data, tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    folder.last.write_bytes(folder.last.read_bytes()[:-1000])
    previous = folder.last.with_name("previous.ckpt")
    kept = previous.read_bytes()
    previous.write_bytes(kept[:-1000])
    with pytest.raises(ValueError, match=r"last\.ckpt is cut or damaged; .*previous\.ckpt is cut or damaged$"):
        train(TrainConfig(), resume=folder.path)
    previous.unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is cut or damaged$"):
        train(TrainConfig(), resume=folder.path)
    previous.write_bytes(kept)
    after_step(1, interrupt)  # the damaged one may not become the previous one: then the run would have none
    with pytest.raises(Interrupted):
        train(TrainConfig(), resume=folder.path)
    assert f"aib train: {folder.last} is cut or damaged; going on from the one before it, previous.ckpt" in capsys.readouterr().err
    assert load_checkpoint(previous)["state"]["step"] == STEPS
    assert load_checkpoint(folder.last)["state"]["step"] == STEPS + 1
    assert same(outcome(train(tiny_config(data, "elsewhere"), resume=folder.path)), outcome(whole))


def test_a_copy_in_the_place_of_a_link_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    path, flushed = tmp_path / "last.ckpt", []
    path.write_bytes(b"content")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append((os.fstat(number).st_size, names(tmp_path))))
    link(path, tmp_path / "best.ckpt")
    assert flushed == [(7, [".best.ckpt.tmp", "last.ckpt"])]
    assert (tmp_path / "best.ckpt").read_bytes() == b"content"


@pytest.mark.parametrize(
    "between",
    ["weights and card", "card and checkpoint", "card and checkpoint, best.ckpt gone", "card and checkpoint, best.ckpt cut"],
)
def test_selected_weights_of_a_future_that_is_undone_go(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """The third epoch was better and is lost; its repetition, of other numbers as on a GPU, is worse."""
    errors, run = iter([0.5, 0.9, 0.1, 0.8]), tmp_path / "run"
    numbers = {"save_checkpoint": loop.save_checkpoint, "write_json": RunFolder.write_json, "summarize": loop.summarize}

    def killed_at(name: str) -> Callable[..., None]:
        def act(*arguments: Any, **options: Any) -> None:
            if arguments[1:2] != ("environment.json",) and len(list(RunFolder(run).log())) == 3:
                raise SystemExit
            numbers[name](*arguments, **options)

        return act

    monkeypatch.setattr(loop, "summarize", lambda found: {**numbers["summarize"](found), "error": next(errors)})
    owner, name = (RunFolder, "write_json") if between == "weights and card" else (loop, "save_checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed_at(name))
        with pytest.raises(SystemExit):
            train(tiny_config(data, run, epochs=3))
    folder = RunFolder(run)
    before = load_checkpoint(folder.best)["model"]
    assert not same(dict(load_run(run).model.state_dict()), before)
    if "best.ckpt" in between:
        content = folder.best.read_bytes()
        folder.best.unlink()
        if "cut" in between:
            folder.best.write_bytes(content[: len(content) // 2])
        train(TrainConfig(), resume=run)
        card = folder.read_json("model.json")
        assert (card["epoch"], card["val_error"]) == (3, 0.8)  # the only epoch of which there are weights
        return
    train(TrainConfig(), resume=run)
    assert load_checkpoint(folder.last)["state"]["best_epoch"] == 1
    assert (folder.read_json("model.json")["epoch"], folder.read_json("model.json")["val_error"]) == (1, 0.5)
    assert same(dict(load_run(run).model.state_dict()), before)


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def begun(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """A run that was stopped in the middle of its first epoch, and the same one that was not."""
    place, original = tmp_path_factory.mktemp("runs"), loop._Fit._step

    def step(self: Any, *arguments: Any) -> Any:
        self.stop.asked = self.state.step == 3
        return original(self, *arguments)

    options = {"epochs": 1, "optimizer": request.param, "lr": 0.01}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Fit, "_step", step)
        with pytest.raises(Interrupted):
            train(tiny_config(data, place / "begun", **options))
    return RunFolder(place / "begun"), train(tiny_config(data, place / "whole", **options))


def changed(begun: RunFolder, path: Path, change: Callable[[dict[str, Any]], object]) -> RunFolder:
    """A copy of a run whose last checkpoint is another."""
    folder = RunFolder(Path(shutil.copytree(begun.path, path)))
    content = torch.load(folder.last, weights_only=True)
    change(content)
    torch.save(content, folder.last)
    return folder


def moment(content: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> None:
    """Change what the optimiser keeps of the first parameter, a convolution's weights."""
    kept = content["optimizer"]["state"][0]
    name = "momentum_buffer" if "momentum_buffer" in kept else "exp_avg_sq"
    kept[name] = change(kept[name])


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "smaller": (lambda c: moment(c, lambda value: torch.zeros(3)), "optimizer (momentum_buffer|exp_avg_sq) of parameter 0"),
    "one for all": (lambda c: moment(c, lambda value: torch.zeros(1).expand(value.shape)), "optimizer .* of parameter 0"),
    "of another type": (lambda c: moment(c, lambda value: value.half()), "optimizer .* of parameter 0"),
    "nowhere": (lambda c: moment(c, lambda value: value.to("meta")), "optimizer .* of parameter 0"),
    "text": (lambda c: moment(c, lambda value: "x"), "optimizer .* of parameter 0"),
    "no past": (lambda c: c["optimizer"]["state"].clear(), "optimizer state"),
    "half a past": (lambda c: c["optimizer"]["state"][0].popitem(), "optimizer state"),
    "one without": (lambda c: c["optimizer"]["state"].pop(3), "optimizer without parameter 3"),
    "of no parameter": (lambda c: c["optimizer"]["state"].update({999: c["optimizer"]["state"][0]}), "optimizer state"),
    "rate": (lambda c: c["optimizer"]["param_groups"][0].update(lr="x"), "optimizer lr"),
    "groups": (lambda c: c["optimizer"]["param_groups"][0].update(params=torch.zeros(2)), "optimizer param_groups"),
    "loss of three": (lambda c: c["running"].update(loss=torch.zeros(3)), "running loss"),
    "errors of no number": (lambda c: c["running"].update(errors=torch.tensor(True)), "running errors"),
    "no images": (lambda c: c["running"].pop("images"), "running"),
    "more images": (lambda c: c["running"]["images"].mul_(2), "running"),
    "no part": (lambda c: c["running"].pop("cross_entropy"), "running"),
    "no rate": (lambda c: c["running"].pop("rate"), "running"),
    "no sums": (lambda c: c["running"].clear(), "running"),
    "no integer": (lambda c: c["state"].update(batch=3.0), "batch"),
    "below zero": (lambda c: c["state"].update(epoch=-1, batch=10), "epoch"),
    "no number": (lambda c: c["state"].update(best_error=float("nan")), "best_error"),
    "true": (lambda c: c["state"].update(epoch=False), "epoch"),
    "endless": (lambda c: c["state"].update(seconds=float("inf")), "seconds"),
    "a future": (lambda c: c["state"].update(best_epoch=2), "best_epoch"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_no_training_writes_is_told(begun: tuple[RunFolder, RunFolder], tmp_path: Path, damage: str) -> None:
    change, what = DAMAGES[damage]
    folder = changed(begun[0], tmp_path / "run", change)
    with pytest.raises(ValueError, match=rf"last\.ckpt is damaged.*{what}") as caught:
        train(TrainConfig(), resume=folder.path)
    assert "\n" not in str(caught.value)


def test_settings_are_the_configurations_and_the_order_in_memory_the_parameters(
    begun: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        moment(content, lambda value: value.to(memory_format=torch.channels_last))  # fused steps would mix up the numbers
        content["optimizer"]["param_groups"][0].update(base_lr="x", momentum=[1], betas=None, weight_decay=1e9, fused="no")

    resumed = train(TrainConfig(), resume=changed(begun[0], tmp_path / "run", change).path)
    assert same(outcome(resumed), outcome(begun[1]))


# --- the selected weights


def test_weights_round_trip_and_damage_is_told(whole: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(whole.path, tmp_path / "run")))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    run = load_run(folder.path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not run.model.training
    last = load_run(folder.path, weights="last")
    assert same(dict(last.model.state_dict()), load_checkpoint(folder.last)["model"])
    for _ in range(8):  # the same weights are the same bytes
        save_weights(folder, run.model, {k: v for k, v in run.card.items() if k != "format"})
        assert folder.weights.read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert same(dict(load_run(folder.path).model.state_dict()), dict(run.model.state_dict()))

    card = folder.read_json("model.json")
    content = folder.weights.read_bytes()
    for spoil, message in (
        (lambda: folder.weights.write_bytes(content[: len(content) // 2]), "model.safetensors is cut or damaged"),
        (lambda: folder.weights.unlink(), "has no model.safetensors"),
        (lambda: folder.write_json("model.json", {**card, "format": 9}), "has format 9; this version of aib reads 1"),
        (lambda: folder.write_json("model.json", {**card, "format": "a\nb"}), r"has format 'a\\nb'; this version"),
        (lambda: folder.write_json("model.json", {**card, "options": {**card["options"], "num_classes": 7}}), "do not fit vgg_xs"),
        (lambda: folder.write_json("model.json", [1]), "model.json"),
        (lambda: folder.write_json("model.json", {"format": 1}), "model.json"),
        (lambda: (folder.path / "model.json").write_text('{"form'), "model.json is damaged"),
        (lambda: (folder.path / "model.json").unlink(), "has no model.json: has the run been trained to the end of an epoch"),
    ):
        spoil()
        with pytest.raises(ValueError, match=message) as caught:
            load_run(folder.path)
        assert "\n" not in str(caught.value)
        folder.weights.write_bytes(content)
        folder.write_json("model.json", card)
    with pytest.raises(ValueError, match="weights is 'first'; it must be 'best' or 'last'"):
        load_run(folder.path, weights="first")


def test_a_run_folder_is_told_from_other_folders(tmp_path: Path) -> None:
    config = tiny_config("somewhere", tmp_path / "a")
    folder = RunFolder(tmp_path / "a")
    folder.create(config)
    assert folder.config == config
    with pytest.raises(
        ValueError, match=r"exists and is not empty: continue it with --resume .*a, or choose another folder with --out"
    ):
        RunFolder(tmp_path / "a").create(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "file").create(config)
    with pytest.raises(ValueError, match=r"is not a run folder.*there are runs inside it: a"):
        RunFolder.open(tmp_path)
    folder = RunFolder(tmp_path / "b" / "c")
    folder.create(config)
    assert folder.config == config
