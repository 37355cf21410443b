"""The compiled network: the eager one's numbers in training, noise and gradients included, or a refusal in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aib.classifier import AttentiveClassifier, Details, Noise
from aib.loss import objective
from aib.models import create_model
from aib.train.fabric import compiled_forward, wrong_gradients
from aib.train.loop import train
from tiny import outcome, tiny_config, write_npz

Make = Callable[..., AttentiveClassifier]
Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_training_pass_with_noise_compiles_without_a_graph_break(small_model: Make, small_batch: Batch, backend: str) -> None:
    model = small_model().train()
    compiled = torch.compile(model.forward_details, backend=backend, fullgraph=True)
    found = []
    for forward in (model.forward_details, compiled):
        torch.manual_seed(3)
        loss = objective(forward(small_batch[0]), small_batch[1])["loss"]
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for eager, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-6)


def compile_by(monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Any]) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **options: make(forward))


def test_a_check_leaves_no_trace(small_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_by(monkeypatch, lambda forward: lambda images: forward(images))
    model = small_model().train()
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    compiled_forward(model, (3, 16, 16), {4: None})
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda details: replace(details, logits=details.logits * 1.01, sample_logits=None), "logits differ"),
        (lambda details: replace(details, rate=None, latent_mean=details.latent_mean.detach()), "gradients differ"),
        (lambda details: 1 / 0, "cannot be compiled here .ZeroDivisionError"),
    ],
)
def test_a_compiler_that_errs_is_refused(small_model: Make, monkeypatch: pytest.MonkeyPatch, wrong: Any, said: str) -> None:
    compile_by(monkeypatch, lambda forward: lambda images: wrong(forward(images)))
    with pytest.raises(ValueError, match=f"{said}.*train without --compile") as caught:
        compiled_forward(small_model().train(), (3, 16, 16), {4: None})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forgotten", ["quantizer.anchors", "attention.std_head.", "attention.head.bias", None])
def test_a_compiler_that_forgets_a_parameter_is_refused(monkeypatch: pytest.MonkeyPatch, forgotten: str | None) -> None:
    """Those whose gradient is a hundred thousandth of the largest, too; one that only rounds otherwise is not refused."""
    model = create_model("vgg_aib_qt", 4, width=0.125).train()
    parts = [value for name, value in model.named_parameters() if forgotten is not None and name.startswith(forgotten)]
    signs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(9)).sign()

    def forgetful(forward: Any) -> Any:
        def run(images: Tensor) -> Any:
            for part in parts:
                part.requires_grad_(False)
            details = forward(images * (1 + torch.finfo(torch.float32).eps * signs))
            for part in parts:
                part.requires_grad_(True)
            return details

        return run

    compile_by(monkeypatch, forgetful)
    if forgotten is None:
        compiled_forward(model, (3, 32, 32), {4: None})
        return
    with pytest.raises(ValueError, match=rf"gradients differ from the eager one's, {forgotten}.*train without --compile"):
        compiled_forward(model, (3, 32, 32), {4: None})


def test_the_gradient_of_every_parameter_is_judged_by_itself() -> None:
    model = create_model("vgg_aib_qt", 4, width=0.125).train()
    names, images = [name for name, _ in model.named_parameters()], torch.randn(8, 3, 32, 32)

    def gradients(images: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(3)
        loss = objective(model.forward_details(images), torch.arange(8) % 4)["loss"]
        return dict(zip(names, torch.autograd.grad(loss, list(model.parameters()))))

    expected = gradients(images)
    passes = [expected, *(gradients(images * (1 + shift)) for shift in (2e-7, -2e-7, 4e-7))]
    assert wrong_gradients(expected, passes) == {}
    # a bias whose mean BatchNorm takes away has nothing but rounding
    pairs = itertools.pairwise(model.named_modules())
    nothing = {f"{name}.bias" for (name, _), (_, module) in pairs if isinstance(module, torch.nn.BatchNorm2d)}
    assert nothing < set(names)
    for factor in (0.0, 0.5, -1.0):
        seen = {name for name in names if set(wrong_gradients(expected | {name: factor * expected[name]}, passes)) == {name}}
        assert seen == set(names) - nothing
    broken = expected | {"quantizer.anchors": torch.full_like(expected["quantizer.anchors"], torch.nan)}
    assert list(wrong_gradients(broken, passes)) == ["quantizer.anchors"]


def test_the_passes_of_parts_are_checked_with_their_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 images 3, 3 and 4: the compiler is asked for nothing in training that was not checked before."""
    asked: list[tuple[int, ...]] = []

    def compiler(wrong: int) -> Callable[[Any], Any]:
        def make(forward: Any) -> Any:
            def compiled(images: Tensor, noise: Noise | None = None) -> Details:
                assert noise is not None
                asked.append((len(images), noise.attention.shape[1], noise.latent.shape[2]))
                details: Details = forward(images, noise=noise)
                return replace(details, logits=details.logits * 1.01) if len(images) == wrong else details

            return compiled

        return make

    data = write_npz(tmp_path / "squares.npz")
    parts: dict[str, Any] = {"epochs": 1, "batch_size": 10, "accumulate": 3, "compile": True}
    compile_by(monkeypatch, compiler(wrong=0))
    train(tiny_config(data, tmp_path / "run", **parts))
    checked, trained = asked[:2], asked[2:]
    assert checked == [(3, 3, 3), (4, 4, 4)]
    assert trained[:3] == [(3, 3, 3), (3, 3, 3), (4, 4, 4)]
    assert set(trained) == set(checked)
    compile_by(monkeypatch, compiler(wrong=4))
    with pytest.raises(ValueError, match=r"the compiled network's logits differ.*train without --compile"):
        train(tiny_config(data, tmp_path / "refused", **parts))


def test_a_mode_without_a_compiler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compile_mode is 'reduce-overhead', but nothing is compiled; add --compile"):
        train(tiny_config(write_npz(tmp_path / "squares.npz"), tmp_path / "run", compile_mode="reduce-overhead"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_compiler_passes_the_check(small_model: Make, precision: str) -> None:
    """Logits and gradients of a step with noise, from torch's own compiler."""
    mixed = {"autocast": lambda: torch.autocast("cpu", torch.bfloat16)} if precision == "bf16-mixed" else {}
    compiled = compiled_forward(small_model().train(), (3, 16, 16), {4: None}, **mixed)
    assert compiled(torch.randn(4, 3, 16, 16)).logits.shape == (4, 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["vgg_aib_qt", "wrn_aib_qt"])
def test_the_compiler_passes_the_check_on_the_papers_networks(name: str) -> None:
    """Dropout included."""
    compiled_forward(create_model(name, 4, width=0.125).train(), (3, 32, 32), {4: None})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_run_follows_the_eager_one(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "squares.npz")
    eager = outcome(train(tiny_config(data, tmp_path / "eager", epochs=1)))
    compiled = outcome(train(tiny_config(data, tmp_path / "compiled", epochs=1, compile=True)))
    for name, value in eager["last"]["model"].items():
        torch.testing.assert_close(compiled["last"]["model"][name], value, rtol=1e-2, atol=1e-3)
