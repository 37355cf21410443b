"""Sources of maps, edits and fills in words a person reads; what is unknown keeps its own name."""

from __future__ import annotations

__all__ = ["control_words", "edit_label", "edit_lines", "fill_label", "fill_words", "metric_label", "source_label", "who_is"]

SOURCES = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
    "iba": "IBA",
    "last 25 % randomised": "last 25 % random",
    "last 50 % randomised": "last 50 % random",
    "last 75 % randomised": "last 75 % random",
    "attention randomised": "attention random",
    "other image": "another image’s map",
}

EXPLAINERS = frozenset({"gradcam", "integrated_gradients", "occlusion", "iba"})

CONTROLS = {
    "uniform": "a map that is the same everywhere",
    "centre": "a bright spot in the centre of every image",
    "edges": "an edge detector",
    "random": "blurred noise",
    "other image": "the map of another image",
    "untrained": "the network before training",
    "attention randomised": "the network with random attention",
}

METRICS = {
    "srg": "SRG", "polarity": "polarity", "accuracy": "accuracy, unattended half removed", "pointing_game": "pointing game",
    "energy": "energy in the mask", "iou": "IoU", "unattended_removed": "accuracy, unattended half removed",
    "attended_removed": "accuracy, attended half removed",
}  # fmt: skip


def source_label(name: str) -> str:
    """``"gradcam@block4"`` is ``"Grad-CAM (block4)"``, a control for it ``"untrained, Grad-CAM (block4)"``."""
    kind, at, rest = name.partition("@")
    shown = SOURCES.get(kind, kind)
    if rest.partition("@")[0] in EXPLAINERS:
        return f"{shown}, {source_label(rest)}"
    return f"{shown} ({rest.replace('x', '×') if kind in CONTROLS else rest})" if at else shown


def who_is(own: str | None, source: str) -> str:
    """A judged source in a sentence: the run's own is ``"the map"``."""
    return "the map" if source == own else source_label(source)


def control_words(name: str) -> str:
    """What a control is: ``"edges"`` is an edge detector, at whatever resolution."""
    name = name.partition("@")[0]
    if name.startswith("last ") and name.endswith(" randomised"):
        return f"the network with its {name.removesuffix(' randomised')} random"
    return CONTROLS.get(name, f"“{name}”")


def edit_lines(name: str, size: float) -> tuple[str, str]:
    """An edit on two lines: ``("colour window", "8×8")``, ``("high frequencies", "≥ 4")``."""
    if name.endswith("window"):
        return name, f"{size:g}×{size:g}"
    if name in ("low frequencies", "high frequencies"):
        return name, f"{'<' if name.startswith('low') else '≥'}\u00a0{size:g}"
    return name, f"{size:g}"


def edit_label(name: str, size: float) -> str:
    """An edit on one line."""
    return " ".join(edit_lines(name, size))


def fill_label(name: str) -> str:
    """A fill in short, as in ``"noisy linear"``."""
    return {"mean": "mean colour"}.get(name, name.replace("_", " "))


def fill_words(name: str) -> str:
    """How what is removed is filled: ``"with the mean colour"``."""
    known = {"mean": "with the mean colour", "blur": "with a blur", "noisy_linear": "from its surroundings"}
    return known.get(name, f"with {fill_label(name)}")


def metric_label(name: str) -> str:
    """A metric of the agreement, as in ``"SRG, blur"``."""
    metric, comma, fill = name.partition(", ")
    return METRICS.get(metric, metric) + comma + fill.replace("_", " ")
