"""Sources of maps, edits and fills in words a person reads; what is unknown keeps its own name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

__all__ = [
    "control_kinds", "control_words", "edit_label", "edit_lines", "fill_label", "fill_words", "left_out_words", "metric_label",
    "of_network", "same_map_words", "source_label", "who_is",
]  # fmt: skip

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
    "untrained": "the network with random weights",
    "attention randomised": "the network with random attention",
}

WITHOUT_NETWORK = frozenset({"uniform", "centre", "edges", "random", "chance"})

METRICS = {
    "srg": "SRG", "polarity": "polarity", "accuracy": "accuracy, unattended half removed", "pointing_game": "pointing game",
    "energy": "energy in the mask", "iou": "IoU", "unattended_removed": "accuracy, unattended half removed",
    "attended_removed": "accuracy, attended half removed",
}  # fmt: skip

ALIKE_TO_THE_DIGIT = 0.995
"""Rank correlation that is written as 1."""


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


def of_network(name: str) -> bool:
    kind = name.partition("@")[0]
    return kind in ("untrained", "attention randomised") or (kind.startswith("last ") and kind.endswith(" randomised"))


def control_kinds(names: Iterable[str]) -> str:
    """What the named controls are, each kind once, in words that are true of each; empty where none is known."""
    found = []
    kinds = {name.partition("@")[0] for name in names}
    if kinds & WITHOUT_NETWORK:
        found.append("maps made without the network")
    if "other image" in kinds:
        found.append("the map of another image")
    if any(map(of_network, kinds)):
        found.append("maps of the same network with random weights, in whole or in part")
    listed = " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f"Controls, each of the size of the map beside it, are {listed}." if found else ""


def same_map_words(names: Sequence[str], similarity: Mapping[str, float | None], label: Callable[[str], str]) -> str:
    """Why networks with random weights that give the judged map are no controls; empty without any.

    Args:
        names: of the networks.
        similarity: rank correlation of their maps with the judged one, as far as known. It is below 1 where the scores are the same
            and snap to anchors that are random.
        label: how a name is written.
    """
    moved = [name for name in names if (similarity.get(name) or 1.0) < ALIKE_TO_THE_DIGIT]
    same = [name for name in names if name not in moved]
    said = []

    def listed(names: Sequence[str]) -> str:
        """Whose maps they are in brackets."""
        parts = [name.partition("@") for name in names]
        return ", ".join(f"{label(kind)} ({label(source)})" if at else label(kind) for kind, at, source in parts)

    if same:
        said.append(f"With {listed(same)} the map is the same: what is random does not enter it.")
    if moved:
        said.append(f"With {listed(moved)} its scores are the same, and only the anchors they snap to are random.")
    return " ".join([*said, "These are no controls." if len(names) > 1 else "This is no control."]) if said else ""


def left_out_words(names: Collection[str], controls_of: Mapping[str, Sequence[str]], label: Callable[[str], str]) -> str:
    """What became of the controls that are not computed for the explainers ``names``; empty without any."""
    if not names:
        return ""
    said = f"{', '.join(map(label, names))}: too costly to compute anew on networks with random weights"
    if not controls_of or any(of_network(name) for controls in controls_of.values() for name in controls):
        return f"{said}, so the best of fewer controls is beside them, and they are not ranked against the others by it."
    return f"{said}."


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
