"""Variational attention attached inside any network: a timm name or an `nn.Module`, at one of its sites."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aib.anchors import AnchorQuantizer
from aib.attention import SpatialAttention
from aib.backbones import create_backbone, module_device_and_dtype, one_line
from aib.bottleneck import LatentBottleneck, deep_decoder, shallow_decoder, xavier_linear
from aib.classifier import Attend, AttentiveClassifier
from aib.functional import Modulation, modulate
from aib.sites import Site, find_site, list_sites, network_input_size, trace_calls, untouched

__all__ = ["AttachedClassifier", "HookedBackbone", "attach"]

DECODERS = {"deep": deep_decoder, "shallow": shallow_decoder}


class AttachedClassifier(AttentiveClassifier):
    """An `AttentiveClassifier` around somebody's network; made by `attach`.

    Attributes:
        input_size: (height, width) of the images it was probed with.
    """

    backbone: HookedBackbone
    input_size: tuple[int, int]

    @property
    def site(self) -> Site:
        """Where the attention sits."""
        return self.backbone.site

    @property
    def shares_features(self) -> bool:
        """Whether several draws run through the rest of the network as one batch; if not, the network runs once a draw."""
        return self.backbone.shares_features

    def remove(self) -> nn.Module:
        """The network as it was given, the same object: its head, hooks, training flags and ``requires_grad`` put back.

        Weights and buffers are those of now: bit for bit the given ones if nothing was trained. A network made from a timm name
        comes without a head. The attached classifier can't be used any more.

        Raises:
            RuntimeError: it was removed already.
        """
        return self.backbone.remove()


def attach(
    model: str | nn.Module,
    at: str,
    num_classes: int,
    anchors: int | None = None,
    *,
    latent_dim: int = 256,
    modulation: Modulation = "residual",
    min_std: float = 0.0,
    head: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    attention_head: nn.Module | None = None,
    decoder: Literal["deep", "shallow"] = "deep",
) -> AttachedClassifier:
    """A classifier with attention at a site of ``model``, a latent bottleneck after it, and a fresh decoder to ``num_classes``.

    A given network is used as it is, not copied: until `AttachedClassifier.remove` its classification head is bypassed and its
    weights train with the rest. What is new comes on the device of the network. If anything is wrong, the network is left as given.

    Args:
        model: a timm name, or a network from images (N, in_channels, H, W) to one tensor (N, ...).
        at: name of the site, one of `aib.sites.list_sites`.
        num_classes: number of classes, at least 2.
        anchors: Q, at least 2; None leaves the map continuous.
        latent_dim: K.
        modulation: ``"residual"`` F * (1 + A) or ``"plain"`` F * A.
        min_std: least standard deviation of the attention in training; see `aib.attention.SpatialAttention`.
        head: name of the classification head of a given network, to be bypassed; by default the one timm records, else the linear
            layer whose output the network returns, else none: the output is then the encoding.
        input_size: side or (height, width) in pixels; by default what the network declares, else 224, else 32.
        in_channels: channels of the images.
        pretrained: for a timm name, True to download its weights or the path of a file with them.
        attention_head: from features (N, C, h, w) to raw scores (N, 1, h, w); a 3x3 convolution by default.
        decoder: ``"deep"`` (Linear, ReLU, Linear) or ``"shallow"`` (ReLU, Linear).

    Raises:
        ValueError: an unknown timm name, site, head or option (near ones are given); weights that cannot be had; a network that
            does not run on such images or is attached already; an attention head of the wrong shape.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
    if decoder not in DECODERS:
        raise ValueError(f"decoder is {decoder!r}; it must be 'deep' or 'shallow'")
    if isinstance(model, str):
        if head is not None:
            raise ValueError(f"head is {head!r}; it is for a given network: one made from a timm name has no head")
        network = create_backbone(model, in_channels=in_channels, input_size=input_size, pretrained=pretrained)
    elif pretrained is not False:
        raise ValueError(f"pretrained is {str(pretrained)!r}; it is for a timm name: a given network keeps the weights it has")
    else:
        network = model
    if any(isinstance(module, _Bypass) for module in network.modules()):
        raise ValueError("the network has attention attached already; call remove() on that classifier first")
    size = network_input_size(network, input_size, in_channels)
    site = _site_for(network, at, size, in_channels)
    heads = () if isinstance(model, str) else _find_heads(network, head, size, in_channels)
    backbone = HookedBackbone(network, site, heads)
    try:
        in_features = _probe(backbone, size, in_channels)
        attached = AttachedClassifier(
            backbone,
            SpatialAttention(site.channels, head=attention_head, min_std=min_std),
            LatentBottleneck(in_features, latent_dim),
            DECODERS[decoder](latent_dim, num_classes),
            num_classes=num_classes,
            quantizer=AnchorQuantizer(anchors) if anchors is not None else None,
            modulation=modulation,
        )
        xavier_linear(attached.bottleneck, attached.decoder)
        attached.input_size = size
        device, dtype = module_device_and_dtype(network)
        for name, part in attached.named_children():
            if part is not backbone:
                # anchors stay in float32: in half precision near ones would merge
                part.to(device=device, dtype=None if name == "quantizer" else dtype).train(network.training)
        attached.training = backbone.training = network.training
        _check_attention_head(attached.attention.head, site, device, dtype)
    except BaseException:
        backbone.remove()
        raise
    return attached


class _Bypass(nn.Identity):
    """Stands where a classification head was."""


@dataclass
class _Run:
    """One pass through a network, alive only while it lasts."""

    owner: nn.Module
    change: Attend
    calls: int = 0


_running = threading.local()  # .run: the pass this thread is in; kept here so that modules carry no state between calls


class HookedBackbone(nn.Module):
    """A network with the feature map at a site replaced by the attended one, its classification head bypassed.

    Outside of `forward` the hook at the site does nothing. With ``shares_features`` the network runs once and what follows the site
    sees all draws as one batch. Otherwise (something computed before the site is joined after it, such as a skip connection) it
    runs once a draw, with the features of the first pass: the same results, slower. In training mode each of those passes
    draws its own dropout and updates the batch statistics.

    Args:
        network: from images to one tensor: (N, D), or (N, D, h, w) and (N, T, D) which are averaged over positions.
        site: of the network.
        heads: submodules of the network to bypass.
        shares_features: see above.
    """

    def __init__(self, network: nn.Module, site: Site, heads: Sequence[nn.Module], shares_features: bool = False) -> None:
        super().__init__()
        self.site = site
        self.shares_features = shares_features
        self._given_training = {name: module.training for name, module in network.named_modules()}
        self._given_grad = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        # in a list of tuples, out of sight of nn.Module: the head is not part of the attached classifier
        self._heads = [
            (parent, name, child)
            for parent in network.modules()
            for name, child in parent.named_children()
            if any(child is head for head in heads)
        ]
        for parent, name, child in self._heads:
            setattr(parent, name, _Bypass().train(child.training))
        self.network: nn.Module | None = network
        self._handle = network.get_submodule(site.name).register_forward_hook(self._at_site)

    def forward(self, images: Tensor, attend: Attend) -> Tensor:
        """Encoded attended features (S_a * N, D), draws outermost, of images (N, channels, height, width).

        Raises:
            RuntimeError: the network was removed, or the site ran other than once.
            ValueError: the feature map at the site has another shape than the site says.
        """
        if self.shares_features:
            return self._encode(images, attend)
        count = len(images)
        draws: list[Tensor] = []

        def attend_and_take_first(features: Tensor) -> Tensor:
            attended = attend(features)
            # copies: what follows may work in place
            draws.extend(attended[i : i + count].clone() for i in range(0, len(attended), count))
            return draws.pop(0)

        def next_draw(_: Tensor) -> Tensor:
            return draws.pop(0)

        encoded = [self._encode(images, attend_and_take_first)]
        while draws:
            encoded.append(self._encode(images, next_draw))
        return torch.cat(encoded)

    def remove(self) -> nn.Module:
        """See `AttachedClassifier.remove`."""
        network = self._present()
        self._handle.remove()
        for parent, name, child in self._heads:
            setattr(parent, name, child)
        for name, module in network.named_modules():
            module.training = self._given_training.get(name, module.training)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self._given_grad.get(name, parameter.requires_grad))
        self._heads = []
        self.network = None
        return network

    def _present(self) -> nn.Module:
        if self.network is None:
            raise RuntimeError("the network was taken out by remove(); attach it again to go on")
        return self.network

    def _encode(self, images: Tensor, change: Attend) -> Tensor:
        """(M, D) from one pass over ``images`` with the features changed by ``change``, which gives M rows."""
        network = self._present()
        outer, run = getattr(_running, "run", None), _Run(self, change)
        _running.run = run
        try:
            output = network(images)
        finally:
            _running.run = outer
        if run.calls != 1:
            raise RuntimeError(f"site {self.site.name!r} ran {run.calls} times in a forward pass; attention needs exactly once")
        return _encoding(output)

    def _at_site(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        run: _Run | None = getattr(_running, "run", None)
        if run is None or run.owner is not self:
            return None
        run.calls += 1
        if run.calls > 1:
            return None
        return _put_back(run.change(_take_features(output, self.site)), output, self.site)

    def _apply(self, fn: Any, recurse: bool = True) -> HookedBackbone:
        # the bypassed head follows the network to its device and type, so that both fit when it is put back
        for _, _, child in self._heads:
            child._apply(fn)
        return super()._apply(fn, recurse)


def _take_features(output: Tensor, site: Site) -> Tensor:
    """Features (N, C, H, W) from what the site returns."""
    if site.layout == "NCHW":
        return output
    if site.layout == "NHWC":
        return output.permute(0, 3, 1, 2)
    if output.shape[1] != site.prefix_tokens + site.height * site.width:
        raise ValueError(
            f"site {site.name!r} returns {output.shape[1]} tokens; it was attached for {site.prefix_tokens} + "
            f"{site.height} x {site.width}: use images of the size given to attach"
        )
    return output[:, site.prefix_tokens :].transpose(1, 2).unflatten(2, (site.height, site.width))


def _put_back(attended: Tensor, output: Tensor, site: Site) -> Tensor:
    """``attended`` (S_a * N, C, H, W) in the layout of ``output``, prefix tokens repeated for every draw."""
    if site.layout == "NCHW":
        return attended
    if site.layout == "NHWC":
        return attended.permute(0, 2, 3, 1).contiguous()
    tokens = attended.flatten(2).transpose(1, 2)
    if site.prefix_tokens == 0:
        return tokens.contiguous()
    return torch.cat([output[:, : site.prefix_tokens].repeat(len(attended) // len(output), 1, 1), tokens], dim=1)


def _encoding(output: Any) -> Tensor:
    """(N, D) from the output of a network: averaged over positions where it has some."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"the network returns {what}; attention needs one tensor (N, D), (N, T, D) or (N, D, h, w)")
    return output.mean(1) if output.ndim == 3 else output.mean((2, 3)) if output.ndim == 4 else output


def _site_for(network: nn.Module, at: str, size: tuple[int, int], in_channels: int) -> Site:
    """The site called ``at``.

    Raises:
        ValueError: there is none, or its map has one position only.
    """
    sites = list_sites(network, size, in_channels)
    try:
        return find_site(sites, at)
    except ValueError:
        calls = trace_calls(network, size, in_channels)
        if not any(call.name == at and call.shape is not None and call.shape[2:] == (1, 1) for call in calls):
            raise
    raise ValueError(
        f"the map at {at!r} is 1x1 for images of {size[0]}x{size[1]}: there is nowhere to look; use larger images"
        + (f", or an earlier site such as {sites[-1].name}" if sites else "")
    )


def _find_heads(network: nn.Module, head: str | None, size: tuple[int, int], in_channels: int) -> Sequence[nn.Module]:
    """The classification heads of a given network; see `attach`."""
    modules = dict(network.named_modules())
    if head is not None:
        if head not in modules or not head:
            near = difflib.get_close_matches(head, modules, n=3, cutoff=0.4) or [name for name, _ in network.named_children()][-3:]
            raise ValueError(f"no module {head!r} for the head; near or last ones: {', '.join(near)}")
        return [modules[head]]
    config = getattr(network, "pretrained_cfg", None)
    names = config.get("classifier") if isinstance(config, dict) else None
    heads = [modules[name] for name in ((names,) if isinstance(names, str) else names or ()) if name in modules]
    if heads:
        return [module for module in heads if not isinstance(module, nn.Identity)]
    calls = trace_calls(network, size, in_channels)
    returned = calls[-1].tensor
    return [
        call.module for call in calls if isinstance(call.module, nn.Linear) and returned is not None and call.tensor == returned
    ][-1:]


def _probe(backbone: HookedBackbone, size: tuple[int, int], in_channels: int) -> int:
    """D of the encoding; sets ``shares_features`` where one pass over two draws equals two passes.

    Two images, so that rows of one draw met by rows of two do not broadcast; random maps, so that mixed rows show.
    """
    device, dtype = module_device_and_dtype(backbone)
    generator = torch.Generator().manual_seed(0)
    site = backbone.site
    images = torch.randn(2, in_channels, *size, generator=generator).to(device, dtype)
    maps = torch.rand(2, 2, 1, site.height, site.width, generator=generator).to(device, dtype)
    with _one_line_error(size), untouched(backbone):
        single = torch.cat([backbone._encode(images, partial(modulate, attention=attention)) for attention in maps])
    if len(single) != 4:
        raise ValueError(f"the network returns {len(single) // 2} rows for 2 images; it must keep one row an image")
    try:
        with untouched(backbone):
            both = backbone._encode(images, lambda features: modulate(features.repeat(2, 1, 1, 1), maps.flatten(0, 1)))
        tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 3e-2
        scale = float(single.abs().max())
        backbone.shares_features = both.shape == single.shape and torch.allclose(
            both, single, rtol=tolerance, atol=tolerance * scale
        )
    except Exception:
        backbone.shares_features = False  # rows of one draw met rows of two
    return single.shape[1]


@contextmanager
def _one_line_error(size: tuple[int, int]) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the network does not run on {size[0]}x{size[1]} images without its head: {one_line(error)}") from error


def _check_attention_head(head: nn.Module, site: Site, device: torch.device, dtype: torch.dtype) -> None:
    expected = (2, 1, site.height, site.width)
    features = torch.zeros(2, site.channels, site.height, site.width, device=device, dtype=dtype)
    try:
        with untouched(head):
            shape = tuple(head(features).shape)
    except Exception as error:
        raise ValueError(f"attention_head does not run on features {tuple(features.shape)}: {one_line(error)}") from error
    if shape != expected:
        raise ValueError(f"attention_head gives {shape} for features {tuple(features.shape)}; it must give {expected}")
