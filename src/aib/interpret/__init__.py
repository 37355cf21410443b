"""Looking at maps and judging them: explainers, localisation with its controls, ablations and intervals. Knows no trainer."""

from aib.interpret.ablation import hardly_used, map_ablation
from aib.interpret.controls import blurred_random, centred_gaussian, chance, edge_map, other_image, uniform
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, conv_layers
from aib.interpret.intervals import bootstrap_mean, mean_interval, paired_difference, wilson_interval
from aib.interpret.localization import energy, iou, localization_scores, localize, pointing_game

__all__ = [
    "AttentionMap",
    "Explainer",
    "GradCAM",
    "blurred_random",
    "bootstrap_mean",
    "centred_gaussian",
    "chance",
    "conv_layers",
    "edge_map",
    "energy",
    "hardly_used",
    "iou",
    "localization_scores",
    "localize",
    "map_ablation",
    "mean_interval",
    "other_image",
    "paired_difference",
    "pointing_game",
    "uniform",
    "wilson_interval",
]
