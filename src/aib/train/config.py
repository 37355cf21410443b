"""What a run is made of: four frozen dataclasses, which are the recipe files' tables and the command line's options.

A recipe is a TOML file with the tables ``[data]``, ``[model]``, ``[optim]`` and ``[run]``; every key is a field below.
"""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from aib.data.texts import MAX_TOML_BYTES, read_text

__all__ = [
    "MACHINE",
    "PLACE",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "config_from_dict",
    "config_to_dict",
    "is_flag",
    "read_config",
    "with_machine",
]


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    data: str = "clutter"
    """Data set: clutter, cifar10, cifar100, svhn, svhn+extra, stl10, cub200, a folder of class folders or an .npz file."""
    root: str = "data"
    """Folder that holds the named data sets."""
    image_size: int | None = None
    """Side in pixels of the square images; by default the data set's own, 224 for photographs."""
    val_fraction: float = 0.1
    """Share of the training images held out for validation where the data set has no validation split; with 0 all images train,
    and the run's weights are those of the last epoch."""
    split_seed: int = 0
    """Seed of that split (the run's own seed does not change it)."""
    mean: tuple[float, ...] = ()
    """Means of the channels that are subtracted, of pixels in [0, 1]; by default those of the training images."""
    std: tuple[float, ...] = ()
    """Standard deviations of the channels that are divided by; by default those of the training images."""
    crop_padding: int = 0
    """Random crop after padding by so many pixels of reflection; 0 for none."""
    flip: bool | None = None
    """Mirror images at random; by default where a mirror image shows the same class."""
    alternate_flip: bool = False
    """Mirror each image in every other epoch instead of at random; which ones in the first is drawn."""
    download: bool = False
    """Fetch a named data set that is absent."""
    skip_bad: bool = False
    """Leave unreadable files out, count and list them, instead of stopping."""
    workers: int = 2
    """Processes that decode images of folders and of cub200, one at a time each, which takes up to 1.3 GB for the largest."""
    boxes: Literal["crop", "keep"] | None = None
    """Of cub200: crop pictures to the birds' boxes (as published; the default), or keep the photographs, with boxes as masks."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: str = "vgg_s_aib_qt"
    """A model of the package (aib recipes lists them) or any timm model."""
    attend: str | None = None
    """Site of a timm model where attention is attached; without it the timm model is trained plain."""
    anchors: int | None = None
    """Number of anchors; by default the model's own (a timm model's map stays continuous)."""
    latent_dim: int | None = None
    """Dimensions of the latent; by default the model's own."""
    modulation: Literal["residual", "plain"] | None = None
    """F * (1 + A) or F * A; by default the model's own."""
    min_std: float | None = None
    """Least noise on the attention scores in training; by default the model's own, 0 as published."""
    width: float | None = None
    """Factor on the channels of a model of the paper; 1 as published, 0.125 suits CPUs."""
    pretrained: str | None = None
    """Start of a timm model or a model for CUB: 'yes' fetches the published weights, a path loads a local file."""


@dataclass(frozen=True)
class OptimConfig:
    """The training."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with momentum, Adam with weight decay as a term of the loss (L2), or AdamW, which decays the weights apart from it."""
    lr: float = 0.05
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of SGD; first beta of Adam and AdamW."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """Weight decay; anchors have none."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    """Course of the learning rate after the warm-up; one_cycle rises and falls linearly."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up; for one_cycle the epoch of the peak, 0 for a quarter of the run."""
    warmup_shares: tuple[float, ...] = ()
    """Shares of the learning rate over the first epochs, one each, in the place of what warm-up and schedule give there."""
    step_epochs: tuple[int, ...] = ()
    """Epochs at which the step schedule multiplies the rate by step_factor."""
    step_factor: float = 0.1
    """Factor of the step schedule."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""
    clip_norm: float | None = None
    """Largest gradient norm; none by default."""
    beta: float = 0.01
    """Weight of the rate in the loss."""
    beta_warmup_epochs: float = 0.0
    """Epochs over which beta, and lambda_sparsity with it, rises linearly from 0."""
    kl: Literal["paper", "reference"] = "paper"
    """The divergence of the distribution that is sampled, or the published code's (ARCHITECTURE.md says how they differ)."""
    lambda_anchor: float = 0.4
    """Weight of the term that moves the anchors."""
    lambda_commitment: float = 0.1
    """Weight of the term that commits the attention to its anchors."""
    lambda_sparsity: float = 0.0
    """Weight of the mean attention in the loss; 0 as published. Above 0 the map opens only where that pays."""
    anchor_lr_scale: float = 1.0
    """Learning rate of the anchors as a share of the others'."""
    norm_bias_lr_scale: float = 1.0
    """Learning rate of the biases of normalisation layers as a share of the others'."""
    revive_anchors: bool = False
    """After every epoch, move anchors that no validation score took to where most scores are."""


@dataclass(frozen=True)
class RunConfig:
    """The run and the machine."""

    recipe: tyro.conf.Suppress[str | None] = None
    """Recipe the configuration started from; set by --recipe."""
    out: str | None = None
    """Folder of the run; by default runs/DATA-MODEL-SEED."""
    seed: int = 0
    """Seed of the start, the order, the augmentation and the noise."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best at hand."""
    devices: int | None = None
    """Devices of this machine, a process on each; by default one, or as many as torchrun or srun starts."""
    accumulate: int | None = None
    """Parts that a process takes its images of a step in, one after the other: the same batch with less memory; by default one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of the network; attention statistics, rate and anchors stay in float32."""
    channels_last: bool | None = None
    """Memory order of the features; by default channels last on CUDA only."""
    compile: bool = False
    """Compile the network, after a check against the uncompiled one."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """How: reduce-overhead replays CUDA graphs, max-autotune tries kernels for minutes."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints; one is written at the end of every epoch too."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run."""

    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    optim: tyro.conf.OmitArgPrefixes[OptimConfig] = field(default_factory=OptimConfig)
    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        o, d, m, r = self.optim, self.data, self.model, self.run
        for name, value, low, high in (
            ("epochs", o.epochs, 1, 1e6),
            ("batch_size", o.batch_size, 1, 1e6),
            ("lr", o.lr, 0, 1e3),
            ("momentum", o.momentum, 0, 0.9999),
            ("weight_decay", o.weight_decay, 0, 1e3),
            ("warmup_epochs", o.warmup_epochs, 0, o.epochs),
            ("step_factor", o.step_factor, 0, 1e9),
            ("label_smoothing", o.label_smoothing, 0, 0.999),
            ("beta", o.beta, 0, 1e6),
            ("beta_warmup_epochs", o.beta_warmup_epochs, 0, 1e6),
            ("lambda_anchor", o.lambda_anchor, 0, 1e6),
            ("lambda_commitment", o.lambda_commitment, 0, 1e6),
            ("lambda_sparsity", o.lambda_sparsity, 0, 1e6),
            ("anchor_lr_scale", o.anchor_lr_scale, 0, 1e6),
            ("norm_bias_lr_scale", o.norm_bias_lr_scale, 1e-6, 1e6),
            ("crop_padding", d.crop_padding, 0, 1e4),
            ("image_size", d.image_size, 1, 1e4),
            ("workers", d.workers, 0, 256),
            ("split_seed", d.split_seed, 0, 2**32 - 1),
            ("anchors", m.anchors, 2, 1e4),
            ("latent_dim", m.latent_dim, 1, 1e4),
            ("min_std", m.min_std, 0, 1e6),
            ("seed", r.seed, 0, 2**32 - 1),
            ("devices", 1 if r.devices is None else r.devices, 1, 1024),
            ("accumulate", 1 if r.accumulate is None else r.accumulate, 1, 1e6),
            ("checkpoint_minutes", r.checkpoint_minutes, 0, 1e6),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie between {low:g} and {high:g}")
        if not all(0 <= share <= 1 for share in o.warmup_shares):
            raise ValueError(f"warmup_shares is {o.warmup_shares}; they must lie between 0 and 1")
        if o.clip_norm is not None and not o.clip_norm > 0:
            raise ValueError(f"clip_norm is {o.clip_norm}; it must be above 0, or absent for none")
        if not all(0 <= m <= 1 for m in d.mean) or not all(0 < s <= 1 for s in d.std):
            raise ValueError(f"mean is {d.mean} and std {d.std}; they are of pixels in [0, 1], and no std is 0")
        if not 0 <= d.val_fraction < 1:
            raise ValueError(f"val_fraction is {d.val_fraction}; it must be 0, for none, or below 1")
        if d.alternate_flip and d.flip is False:
            raise ValueError("alternate_flip is on and flip is off; one of them must change")


MACHINE = ("device", "devices", "accumulate", "checkpoint_minutes", "quiet")
"""Options of `RunConfig` that do not belong to the run but to where and how it goes on."""

PLACE = ("root", "download", "workers")
"""Options of `DataConfig` that say where the same data are, and who reads them."""


def with_machine(config: TrainConfig, given: TrainConfig) -> TrainConfig:
    """``config`` with those of the `MACHINE` and `PLACE` options that ``given`` changes from their defaults."""
    run, data = _changed(given.run, RunConfig(), MACHINE), _changed(given.data, DataConfig(), PLACE)
    return replace(config, run=replace(config.run, **run), data=replace(config.data, **data))


def _changed(given: object, usual: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(given, name) for name in names if getattr(given, name) != getattr(usual, name)}


def same_run(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two configurations compute the same: equal but for the folder and the `MACHINE` options."""
    usual = RunConfig()
    free = {name: getattr(usual, name) for name in (*MACHINE, "out")}
    return replace(one, run=replace(one.run, **free)) == replace(other, run=replace(other.run, **free))


def is_flag(option: str) -> bool:
    """Whether ``option`` of `TrainConfig` is a switch without a third state, which the command line writes --name or --no-name."""
    return any(get_type_hints(type(table)).get(option) is bool for table in vars(TrainConfig()).values())


def read_config(path: Path, base: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a recipe file, or of a run's ``config.toml``; absent keys keep ``base``'s values.

    Raises:
        ValueError: the file is absent or not TOML, a table or key is unknown (the near one is suggested), or a value has the
            wrong type.
    """
    try:
        tables = tomllib.loads(read_text(path, most=MAX_TOML_BYTES))
    except FileNotFoundError:
        raise ValueError(f"no recipe at {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable TOML file: {error}") from None
    if not tables:
        raise ValueError(
            f"{path} is empty; a recipe has tables such as [data] and [model] (aib recipes lists those of the package)"
        )
    return config_from_dict(tables, where=str(path), base=base)


def config_from_dict(tables: Mapping[str, Any], where: str = "configuration", base: TrainConfig | None = None) -> TrainConfig:
    """`TrainConfig` from nested tables; see `read_config`."""
    base = base or TrainConfig()
    _refuse_unknown(tables, [f.name for f in fields(TrainConfig)], f"{where}: unknown table")
    parts = {}
    for table in fields(TrainConfig):
        current = getattr(base, table.name)
        given = tables.get(table.name, {})
        if not isinstance(given, Mapping):
            raise ValueError(f"{where}: {table.name} is a {type(given).__name__}; it must be a table [{table.name}]")
        _refuse_unknown(given, [f.name for f in fields(current)], f"{where}: unknown key in [{table.name}]")
        hints = get_type_hints(type(current))
        typed = {key: _convert(value, hints[key], f"{where}: {table.name}.{key}") for key, value in given.items()}
        parts[table.name] = type(current)(**{**{f.name: getattr(current, f.name) for f in fields(current)}, **typed})
    try:
        return TrainConfig(**parts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def config_to_dict(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Nested tables without the keys that are None (TOML has no null)."""
    tables: dict[str, dict[str, Any]] = asdict(config)
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in table.items() if value is not None}
        for name, table in tables.items()
    }


def _refuse_unknown(given: Mapping[str, Any], allowed: list[str], message: str) -> None:
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(allowed)}"
            raise ValueError(f"{message}: {key!r}; {hint}")


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type, without guessing: an int may stand for a float, a list for a tuple."""
    options = list(_union(hint))
    if isinstance(value, str) and "\0" in value:  # no file has such a name
        raise ValueError(f"{where} is {reprlib.repr(value)}; it must have no null character")
    numbers = [v for v in (value if isinstance(value, list) else [value]) if type(v) is int]
    if not all(-(2**63) <= v < 2**63 for v in numbers):
        raise ValueError(f"{where} is a whole number of more than 64 bits")
    for option in options:
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple and isinstance(value, list):
            kinds = (int, float) if get_args(option)[0] is float else (int,)
            if all(type(v) in kinds for v in value):
                return tuple(map(get_args(option)[0], value))
        if option is float and type(value) in (int, float):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    wanted = " or ".join(_describe(o) for o in options if o is not type(None))
    raise ValueError(f"{where} is {reprlib.repr(value)}; it must be {wanted}")


def _union(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _union(option)
    else:
        yield hint


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        return " or ".join(repr(v) for v in get_args(option))
    if get_origin(option) is tuple:
        return "a list of numbers" if get_args(option)[0] is float else "a list of whole numbers"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(option, str(option))
