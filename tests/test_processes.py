"""Several processes do what one does: the same steps from the same batches, every image counted once, and an end in common."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import short_runs
from aib.classifier import AttentiveClassifier, Classifier, PlainClassifier
from aib.cli import main
from aib.data.augment import random_crop, random_flip
from aib.models import create_model
from aib.train import fabric, loop, watch
from aib.train.agreement import Agreement
from aib.train.loop import train
from aib.train.predict import predict, summarize
from aib.train.processes import World, read_world
from aib.train.shares import Sharing
from aib.train.stopping import Interrupted
from aib.train.watch import Watch
from ranks import run_ranks
from short_runs import interrupt
from tiny import outcome, rows, same, tiny_config, write_npz

data = short_runs.data
posix = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked here")


# --- where a process finds itself


def test_the_variables_of_torchrun_and_srun_say_where_a_process_is() -> None:
    assert read_world({}) == World(1, 0, 1, "")
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert read_world(torchrun) == World(8, 5, 4, "torchrun")
    assert read_world(torchrun).machines == 2
    srun = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_PROCID": "6", "SLURM_NTASKS": "8"}
    assert read_world(srun) == World(8, 6, 4, "srun")
    assert read_world(srun | torchrun) == World(8, 5, 4, "torchrun")  # torchrun started by srun
    batch_script = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}  # no step: nobody else will come
    assert read_world(batch_script) == World()
    with pytest.raises(ValueError, match="srun started 3,2 processes on its machines; each machine needs as many"):
        read_world(srun | {"SLURM_STEP_TASKS_PER_NODE": "3,2"})


def test_what_contradicts_the_launcher_or_the_machine_is_one_line(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["train", "--data", str(data), "--device", "cpu", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(loop, "read_world", lambda _: World(4, 0, 2, "torchrun"))
    for options, message in (
        (["--devices", "3"], "devices is 3, but torchrun started 2 here; leave --devices out, or start as many"),
        (["--batch-size", "3"], "batch_size is 3; 4 processes need an image each"),
    ):
        assert main([*given, *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(loop, "read_world", lambda _: World(3, 0, 2, "torchrun"))
    assert main(given) == 2
    assert "torchrun started 3 processes, 2 of them here; each machine needs as many" in capsys.readouterr().err
    monkeypatch.setattr(loop, "read_world", lambda _: World())
    monkeypatch.setattr(fabric, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert main([*given, "--devices", "2"]) == 2
    assert "2 processes need as many devices; this machine has 1 of cuda" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*given, "--batch-size", "8", "--accumulate", "9"]) == 2
    assert "a batch has 8 images for 1 x 9 parts (processes x accumulate); each needs an image" in capsys.readouterr().err
    for name in ("devices", "accumulate"):
        assert main([*given, f"--{name}", "0"]) == 2
        assert f"{name} is 0" in capsys.readouterr().err


# --- shares of a batch


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 30))
@settings(max_examples=50)
def test_shares_and_parts_hold_every_image_once_and_weigh_it_alike(size: int, accumulate: int, more: int) -> None:
    batch = size * accumulate + more
    model = PlainClassifier(nn.Identity(), nn.Identity(), nn.Linear(1, 1), 1)
    images, weights = [], []
    for rank in range(size):
        sharing = Sharing(size, rank, accumulate, batch, model, (1, 1, 1))
        mine = torch.arange(batch)[sharing.share]
        for part, weight in sharing.parts(len(mine)):
            images += mine[part].tolist()
            # gradients of a part are means over its images, and those of the processes are averaged
            weights += [weight / len(mine[part]) / size] * len(mine[part])
    assert sorted(images) == list(range(batch))
    assert weights == pytest.approx([1 / batch] * batch)


@pytest.mark.parametrize("name", ["vgg_xs_aib_qt", "vgg_xs_aib", "vgg_dvib", "vgg_xs"])
def test_a_share_gets_the_augmentation_and_the_noise_that_the_whole_batch_would_give_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model(name, num_classes=3, **({"width": 0.125} if name == "vgg_dvib" else {})).train()
    drawn: list[Tensor] = []
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **how: drawn.append(draw(*shape, **how)) or drawn[-1])
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)

    def prepared(images: Tensor, among: Any = None) -> Tensor:
        torch.manual_seed(3)
        return random_flip(random_crop(images, 2, among=among), among=among)

    whole = prepared(images)
    model.forward_details(whole.float())
    inside, drawn[:] = list(drawn), []
    assert len(inside) == {"vgg_xs": 0, "vgg_dvib": 1}.get(name, 2)
    for rank in range(3):
        sharing = Sharing(3, rank, 1, 7, model, (3, 32, 32))
        assert torch.equal(prepared(images[sharing.share], sharing.among), whole[sharing.share])
        noise = sharing.noise()
        if noise is None:
            assert inside == []
            continue
        assert torch.equal(noise.latent, inside[-1][:, :, sharing.share])
        if len(inside) == 2:
            assert torch.equal(noise.attention, inside[0][:, sharing.share])
        assert model.forward_details(whole[sharing.share].float(), noise=noise).logits.shape == (len(range(rank, 7, 3)), 3)


def group_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without BatchNorm, whose images do not see each other."""
    original = loop.start_network

    def started(*arguments: Any, **options: Any) -> Classifier:
        model = original(*arguments, **options)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(1, child.num_features))
        return model

    monkeypatch.setattr(loop, "start_network", started)


def apart(one: Any, other: Any) -> float:
    """Largest difference of two nested structures of numbers and tensors."""
    if isinstance(one, Tensor):
        return (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return max((apart(a, b) for a, b in zip(one, other)), default=0.0)
    return abs(one - other) if isinstance(one, int | float) else float(one != other)


SHORT = {"epochs": 2, "batch_size": 25, "anchors": 8, "model": "vgg_xs_aib_qt", "lr": 0.01, "clip_norm": 5.0}
"""Three steps an epoch of 25 images, which no number of processes or parts divides."""


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.slow), 7])
def test_parts_of_a_step_add_up_to_the_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    group_norm(monkeypatch)
    one = outcome(train(tiny_config(data, tmp_path / "one", **SHORT)))
    parts = outcome(train(tiny_config(data, tmp_path / "parts", accumulate=accumulate, **SHORT)))
    assert apart(parts["last"]["model"], one["last"]["model"]) < 2e-6
    assert apart(parts["rows"], one["rows"]) < 1e-4
    # the control: a mean of the parts' means is another step
    equal = Sharing.parts
    monkeypatch.setattr(Sharing, "parts", lambda self, count: [(cut, 1 / self.accumulate) for cut, _ in equal(self, count)])
    wrong = outcome(train(tiny_config(data, tmp_path / "wrong", accumulate=accumulate, **SHORT)))
    assert apart(wrong["last"]["model"], one["last"]["model"]) > 2e-5


def keep_state(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every process leaves its weights and buffers, and what its validation said, after the last step."""
    original = loop._Fit.run

    def run(self: Any) -> Any:
        result = original(self)
        torch.save({"state": self.model.state_dict(), "anchors": self.anchors}, folder / f"state-{self.rank}.pt")
        return result

    monkeypatch.setattr(loop._Fit, "run", run)


@posix
@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_give_the_weights_and_the_numbers_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    path = write_npz(tmp_path / "odd.npz", val=25)
    group_norm(monkeypatch)
    keep_state(monkeypatch, tmp_path)
    one = train(tiny_config(path, tmp_path / "one", **SHORT))

    def act(rank: int) -> None:
        train(tiny_config(path, tmp_path / "two", accumulate=accumulate, **SHORT))

    assert run_ranks(2, act, tmp_path) == [(0, ""), (0, "")]
    states = [torch.load(tmp_path / f"state-{rank}.pt") for rank in range(2)]
    assert same(*states)  # bit for bit, on every process
    two = outcome(loop.RunFolder(tmp_path / "two"))
    assert apart(two["last"]["model"], outcome(one)["last"]["model"]) < 2e-6
    assert apart(two["rows"], rows(one)) < 1e-4
    for row in two["rows"]:
        assert (row["train"]["error"] * 75) % 1 == pytest.approx(0, abs=1e-9)
        assert (row["val"]["error"] * 25) % 1 == pytest.approx(0, abs=1e-9)  # 13 images on one, 12 on the other


@posix
@pytest.mark.slow
def test_anchors_and_buffers_are_equal_after_twenty_steps_with_batchnorm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_state(monkeypatch, tmp_path)
    path = write_npz(tmp_path / "data.npz", val=25)

    def act(rank: int) -> None:
        train(tiny_config(path, tmp_path / "run", epochs=5, batch_size=24, revive_anchors=True))

    assert run_ranks(2, act, tmp_path) == [(0, ""), (0, "")]
    states = [torch.load(tmp_path / f"state-{rank}.pt") for rank in range(2)]
    assert rows(loop.RunFolder(tmp_path / "run"))[-1]["step"] == 20
    assert any("running_var" in name for name in states[0]["state"])
    assert any("anchors" in name for name in states[0]["state"])
    assert same(*states)


def test_predictions_of_shares_put_together_are_those_of_the_whole(small_model: Callable[..., AttentiveClassifier]) -> None:
    from aib.data.bundle import TensorSplit

    model = small_model().eval()
    split = TensorSplit(torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8), torch.arange(11) % 4)
    mean = std = (0.5, 0.5, 0.5)
    whole = predict(model, split, mean, std)
    sharings = [Sharing(3, rank, 1, 8, model, (3, 16, 16)) for rank in range(3)]
    shares = [predict(model, sharing.of_validation(split), mean, std) for sharing in sharings]
    calls: list[list[Tensor]] = [[], [], []]

    def recorder(rank: int) -> Callable[[Tensor], Tensor]:
        return lambda value: calls[rank].append(value.clone()) or value  # type: ignore[func-returns-value]

    for rank, sharing in enumerate(sharings):
        sharing.gathered(shares[rank], split.labels, model, recorder(rank))
    totals = [torch.stack(values).sum(0) for values in zip(*calls)]
    answers = iter(totals)
    found = sharings[1].gathered(shares[1], split.labels, model, lambda _: next(answers))
    assert torch.equal(found.labels, whole.labels)
    assert torch.allclose(found.logits, whole.logits, atol=1e-6)
    assert summarize(found) == pytest.approx(summarize(whole), rel=1e-5)
    few = TensorSplit(split.images[:2], split.labels[:2])
    assert sharings[2].of_validation(few) is few


# --- an end in common


def test_processes_agree_after_the_same_steps_and_soon_where_steps_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds, longest in ((0.01, 10), (0.5, 4), (30.0, 1)):
        agreement = Agreement(2, torch.device("cpu"), lambda value: 2 * value, 0)
        gaps, last = [], 0
        for step in range(1, 41):
            clock[0] += seconds
            due = agreement.is_due(step)
            assert agreement.wishes(step, True, False) == [due, False]
            if due:
                gaps.append(step - last)
                last = step
        assert max(gaps) == longest
    alone = Agreement(1, torch.device("cpu"), lambda value: value, 0)
    assert alone.wishes(3, True, False) == [True, False]


def watched(rank: int, size: int, inside: Callable[[int], None], **limits: float) -> None:
    """``inside(rank)`` in a watch whose processes know each other through torch's store."""
    for name, value in {"GRACE": 1.0, "WORD_SECONDS": 2.0, **limits}.items():
        setattr(watch, name, value)
    store = torch.distributed.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), size, rank == 0)

    def broadcast(value: Any) -> Any:
        if rank == 0:
            store.set("value", repr(value))
        return eval(store.get("value").decode())

    with Watch(World(size, rank, size, "torchrun"), broadcast, (Interrupted,), lambda: "; go on"):
        inside(rank)


def stuck() -> None:
    """As in a collective operation, out of Python's reach."""
    threading.Event().wait(60)


@posix
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_others_end_in_time_and_say_so(tmp_path: Path, victim: int) -> None:
    def inside(rank: int) -> None:
        if rank == victim:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 2:
            time.sleep(0.6)
            raise RuntimeError("Connection closed by peer")  # what gloo says
        stuck()

    began = time.monotonic()
    ends = run_ranks(3, lambda rank: watched(rank, 3, inside), tmp_path, 30)
    assert time.monotonic() - began < 20
    assert [code for code, _ in ends] == [-9 if rank == victim else 2 for rank in range(3)]
    said = [line for _, err in ends for line in err.splitlines()]
    assert len(said) == (2 if victim == 0 else 1)  # the first process speaks, or where it is gone those that are left
    assert all(f"process {victim} of 3 is gone (killed, out of memory, or its machine is); the others" in line for line in said)


@posix
def test_an_error_that_all_have_is_said_once_and_one_alone_ends_all(tmp_path: Path) -> None:
    def refused(rank: int) -> None:
        time.sleep(0.1 * rank)
        raise ValueError("no such data")

    assert run_ranks(2, lambda rank: watched(rank, 2, refused), tmp_path, 30) == [(2, "no such data\n"), (2, "")]

    def alone(rank: int) -> None:
        if rank == 1:
            raise ValueError("no disk here")
        stuck()

    first, second = run_ranks(2, lambda rank: watched(rank, 2, alone), tmp_path, 30)
    assert second == (2, "no disk here\n")
    assert first[0] == 2
    assert first[1].startswith("aib train: process 1 of 2 has failed, as it says itself; the others stop too; go on")

    def frozen(rank: int) -> None:
        raise RuntimeError("[gloo] Timed out waiting 1800000ms for recv operation to complete")

    ends = run_ranks(2, lambda rank: watched(rank, 2, frozen), tmp_path, 30)
    assert [code for code, _ in ends] == [2, 2]
    # the first to give up says so; on a busy machine the other hears of it before it gives up itself
    assert any(said.startswith("the processes have lost each other (RuntimeError: [gloo] Timed out") for _, said in ends)


@posix
def test_those_that_leave_as_agreed_are_not_missed(tmp_path: Path) -> None:
    def inside(rank: int) -> None:
        time.sleep(1.5 * (rank != 1))  # longer than the grace
        if rank == 1:
            raise Interrupted("saved")

    def act(rank: int) -> None:
        watched(rank, 3, inside, GRACE=0.2)
        if rank == 0:
            time.sleep(0.5)

    assert run_ranks(3, act, tmp_path, 30) == [(0, ""), (130, ""), (0, "")]


@posix
@pytest.mark.slow
def test_a_stop_asked_of_one_process_is_saved_by_all_and_goes_on_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npz(tmp_path / "data.npz")
    whole = train(tiny_config(path, tmp_path / "whole"))
    original = loop._Fit._step

    def step(self: Any, *arguments: Any) -> Any:
        if self.rank == 1 and self.state.step == 4:
            interrupt(self)
        return original(self, *arguments)

    def act(rank: int) -> None:
        monkeypatch.setattr(loop._Fit, "_step", step)
        try:
            train(tiny_config(path, tmp_path / "run"))
        except Interrupted as stop:
            raise ValueError(str(stop)) from None

    (first, said), second = run_ranks(2, act, tmp_path)
    assert (first, second) == (2, (130, ""))
    assert "stopped after" in said
    done = int(said.split("stopped after ")[1].split()[0])
    assert 5 <= done <= 15
    folder = train(tiny_config(path, "elsewhere"), resume=tmp_path / "run")
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(whole)]
