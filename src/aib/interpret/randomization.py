"""The same network with parts untrained: does a map know what was learned? (Adebayo et al. 2018, "Sanity checks for saliency maps")

A map that stays as it was when the weights are random shows the architecture and the image, not what the network has learned. A
randomised network is a copy of the trained one in which some modules have the parameters and buffers of a freshly built twin.

Batch normalisation keeps statistics of what it has seen. Behind random weights those of the trained network are wrong, and a fresh
twin's, 0 and 1, are not what it would start its training with either: there a batch is normalised by its own. So the statistics
from the first randomised module on are taken anew from images, by `reestimate_statistics`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aib.classifier import Classifier
from aib.data.bundle import batch_indices
from aib.interpret.explainers import evaluating
from aib.interpret.intervals import bootstrap_mean
from aib.interpret.map_sources import map_cosine

__all__ = [
    "attention_modules", "execution_order", "map_similarity", "randomize", "randomized_networks", "rank_correlation",
    "reestimate_statistics",
]  # fmt: skip

PERCENTAGES = (25, 50, 75)
"""Of the modules with parameters, from the output on: the cascade."""


def randomized_networks(
    trained: Classifier,
    fresh: Classifier,
    images: Tensor,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    reestimate: bool = True,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Classifier]:
    """Every randomised network of the sanity check, by name; each is new, and both given networks stay as they are.

    ``"untrained"`` has nothing of the trained network. ``"attention randomised"`` lacks its `attention_modules`; a model that has
    none gets no such entry. ``"last 25 % randomised"`` and so on are the cascade from the output towards the input: of the modules
    that own parameters, the last of each percentage in `execution_order` (rounded, at least one).

    Args:
        trained: the network whose maps are in question.
        fresh: the same architecture with its initial weights, on any device; layers that start from data are the caller's to
            calibrate.
        images: (N, C, H, W) normalised training images; the first serves to find the order of execution.
        percentages: of the cascade, each above 0 and below 100.
        reestimate: whether to apply `reestimate_statistics` to each network.
        batch_size, seed: of `reestimate_statistics`.

    Raises:
        ValueError: the architectures differ, a percentage is outside (0, 100), or see `reestimate_statistics`.
    """
    for percentage in percentages:
        if not 0 < percentage < 100:
            raise ValueError(f"a percentage of the cascade is {percentage}; it must be above 0 and below 100")
    order = execution_order(trained, images[:1])
    chosen = {"untrained": [name for name, _ in trained.named_modules()]}
    if trained.attention_parts():
        chosen["attention randomised"] = attention_modules(trained)
    for percentage in percentages:
        chosen[f"last {percentage:g} % randomised"] = order[-max(1, round(len(order) * percentage / 100)) :]
    return {
        name: randomize(trained, fresh, modules, images, reestimate=reestimate, batch_size=batch_size, seed=seed)
        for name, modules in chosen.items()
    }


def randomize(
    trained: Classifier,
    fresh: Classifier,
    modules: Collection[str],
    images: Tensor,
    *,
    reestimate: bool = True,
    batch_size: int = 128,
    seed: int = 0,
) -> Classifier:
    """A deep copy of ``trained`` in which ``modules`` have the parameters and buffers of ``fresh``.

    Args:
        trained, fresh, images, batch_size, seed: as in `randomized_networks`.
        modules: names of submodules, as `torch.nn.Module.named_modules` gives them. Only what a module owns itself is replaced:
            name its children too, if they are meant.
        reestimate: whether to take the statistics of the normalisations anew, those that run at or behind the first of
            ``modules``; before it, the network is the trained one bit for bit.

    Raises:
        ValueError: the architectures differ, there is no such module, or see `reestimate_statistics`.
    """
    _check_twins(trained, fresh)
    known = dict(trained.named_modules())
    for name in modules:
        if name not in known:
            raise ValueError(f"the model has no module {name!r}; its names are those of named_modules()")
    network = copy.deepcopy(trained)
    with torch.no_grad():
        for name in modules:
            source = fresh.get_submodule(name)
            theirs = dict(source.named_parameters(recurse=False)) | dict(source.named_buffers(recurse=False))
            mine = network.get_submodule(name)
            for key, values in [*mine.named_parameters(recurse=False), *mine.named_buffers(recurse=False)]:
                values.copy_(theirs[key])
    if reestimate:
        finished = _finished(trained, images[:1])
        owners = [finished[name] for name in modules if _owns(known[name])]
        behind = [name for name in known if finished[name] >= min(owners, default=len(finished))]
        reestimate_statistics(network, images, layers=behind, batch_size=batch_size, seed=seed)
    return network


def attention_modules(model: Classifier) -> list[str]:
    """Names of the modules that `aib.classifier.Classifier.attention_parts` gives and of everything inside them.

    Raises:
        ValueError: the model has none.
    """
    inside = {part for top in model.attention_parts() for part in top.modules()}
    if not inside:
        raise ValueError(f"{type(model).__name__} has no attention module to randomise")
    return [name for name, module in model.named_modules() if module in inside]


def execution_order(model: nn.Module, image: Tensor) -> list[str]:
    """Names of the modules that own parameters, from input to output, as a forward pass of ``image`` (1, C, H, W) runs them.

    A module that runs more than once stands where it runs first, so that everything before a place in the order is complete. One
    whose parameters are used without calling it stands with the nearest module around it that is called.

    Raises:
        ValueError: no module owns a parameter.
    """
    finished = _finished(model, image)
    owners = [name for name, module in model.named_modules() if _owns(module)]
    if not owners:
        raise ValueError(f"{type(model).__name__} has no parameters to randomise")
    return sorted(owners, key=finished.__getitem__)


@torch.no_grad()
def reestimate_statistics(
    model: Classifier, images: Tensor, *, layers: Collection[str] | None = None, batch_size: int = 128, seed: int = 0
) -> None:
    """Take the running statistics of the batch normalisations anew from ``images``, in place: plain means over one pass.

    Normalisations run in training mode, attention and latent are drawn with noise from ``seed`` as in training, and what would draw
    from torch's global generator (dropout) stays off. A last, shorter batch is left out, unless it is the only one.

    Args:
        model: its parameters, momenta and training flags stay as they are.
        images: (N, C, H, W) normalised, N of at least 2.
        layers: names of the normalisations to take anew; all by default.
        batch_size: images normalised together, at least 2, as in training.
        seed: of the noise.

    Raises:
        ValueError: ``images`` is not (N, C, H, W) with N of at least 2, or ``batch_size`` is below 2.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images have shape {tuple(images.shape)}; statistics need (N, C, H, W) with N >= 2")
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; statistics of a batch need at least 2")
    norms = [
        module for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
        and (layers is None or name in layers)
    ]  # fmt: skip
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters(), images).device
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        try:
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches, not one that fades
            for index in batch_indices(torch.arange(len(images)), batch_size, drop_last=True):
                model.forward_details(images[index.to(images.device)].to(device), samples=(1, 1), generator=generator)
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps (N, 1, h, w), (N,) float64 on the CPU; tied values share their mean rank.

    NaN where one of the two maps is constant.

    Raises:
        ValueError: the shapes differ or are not (N, 1, h, w), or a map is not finite.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
        raise ValueError(f"maps have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected (N, 1, h, w) twice")
    a, b = _ranks(first), _ranks(second)
    product = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(product > 0, ((a * b).sum(1) / product).clamp(-1, 1), torch.nan)


def _ranks(maps: Tensor) -> Tensor:
    """(N, P) float64 ranks, centred: exactly zero for a constant map."""
    values = maps.detach().flatten(1).cpu().contiguous()
    if not bool(values.isfinite().all()):
        raise ValueError(f"{int((~values.isfinite()).any(1).sum())} of {len(values)} maps are not finite")
    ordered = values.sort(1).values
    below, up_to = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    # twice the mean rank from 0 on, less twice the middle rank: whole numbers, so that the sum is exact
    return (below + up_to - values.shape[1]).double()


def map_similarity(trained: Tensor, draws: Sequence[Tensor], seed: int = 0) -> dict[str, Any]:
    """How alike a network's maps are to those of draws of random weights, of the same images; plain numbers, ready for JSON.

    Args:
        trained: (N, 1, h, w).
        draws: as much for every draw of the weights. One alone says little: draws differ by more than images do.
        seed: of the bootstrap.

    Returns:
        ``n``; ``spearman`` and ``cosine`` as [mean, low, high] over the draws, with 95 % bootstrap intervals over images that hold
        for these draws, None where no image has a value; ``draws``, the mean rank correlation of each draw, None likewise;
        ``constant``, the images without a rank correlation in any draw, since a map is constant; ``no_direction``, those without a
        cosine, since a map is zero everywhere.

    Raises:
        ValueError: there is no map or no draw, the shapes differ or are not (N, 1, h, w), or a map is not finite.
    """
    if not len(trained) or not draws:
        raise ValueError(f"there are {len(trained)} maps and {len(draws)} draws; expected at least one of each")
    result: dict[str, Any] = {"n": len(trained)}
    kinds = (("spearman", "constant", rank_correlation), ("cosine", "no_direction", map_cosine))
    for kind, missing, measure in kinds:
        each = torch.stack([measure(trained, maps).cpu() for maps in draws])
        values = each.nanmean(0)
        count = int(values.isnan().sum())
        result[kind] = None if count == len(values) else list(bootstrap_mean(values.numpy(), seed))
        result[missing] = count
        if kind == "spearman":
            result["draws"] = [None if value.isnan() else value.item() for value in each.nanmean(1)]
    return result


def _owns(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


@torch.no_grad()
def _finished(model: nn.Module, image: Tensor) -> dict[str, int]:
    """When each module first finished in a forward pass, by name; one that is not called, when the module around it did."""
    if image.ndim != 4 or not len(image):
        raise ValueError(f"images have shape {tuple(image.shape)}; expected (N, C, H, W) with N >= 1")
    seen: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.setdefault(name, len(seen))

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    like = next(model.parameters(), image)
    try:
        with evaluating(model):
            model(image.to(like.device))
    finally:
        for handle in hooks:
            handle.remove()
    for name, _ in model.named_modules():  # parents come before children
        if name not in seen:
            seen[name] = seen[name.rpartition(".")[0]]
    return seen


def _check_twins(trained: nn.Module, fresh: nn.Module) -> None:
    mine, theirs = ({name: tuple(t.shape) for name, t in [*m.named_parameters(), *m.named_buffers()]} for m in (trained, fresh))
    for name in [*mine, *theirs]:
        if mine.get(name) != theirs.get(name):
            raise ValueError(
                f"the two networks differ: {name!r} is {mine.get(name, 'missing')} in the trained one and "
                f"{theirs.get(name, 'missing')} in the fresh one; build both by the same name and options"
            )
