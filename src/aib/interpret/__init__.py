"""Looking at maps and judging them: explainers, scores with their controls, bits, intervals. Knows no trainer."""

from aib.interpret.ablation import hardly_used, map_ablation
from aib.interpret.adapters import as_cam, captum_attribution, quantus_explain_func
from aib.interpret.agreement import metric_agreement
from aib.interpret.attribution import IntegratedGradients, Occlusion
from aib.interpret.choice import EXPLAINERS, make_explainer
from aib.interpret.consistency import Consistency, measure_consistency
from aib.interpret.controls import blurred_random, centred_gaussian, chance, edge_map, other_image, uniform
from aib.interpret.detection import detection_table, reliability_bins, selective_table, unusualness
from aib.interpret.explainers import AttentionMap, Explainer, GradCAM, conv_layers
from aib.interpret.faithfulness import removal_faithfulness
from aib.interpret.grid_pointing import GridPointing, grid_pointing_game
from aib.interpret.iba import BottleneckAttribution
from aib.interpret.information import Information, measure_information
from aib.interpret.intervals import bootstrap_mean, mean_interval, paired_difference, wilson_interval
from aib.interpret.localization import energy, iou, localization_scores, localize, pointing_game
from aib.interpret.map_sources import control_sources, from_explainer, map_cosine
from aib.interpret.named_edits import Edit, frequency_edits, window_edits
from aib.interpret.randomization import map_similarity, randomized_networks, rank_correlation
from aib.interpret.removal_curves import Faithfulness
from aib.interpret.roc import auroc, auroc_difference
from aib.interpret.sensitivity import Sensitivity, map_sensitivity

__all__ = [
    "AttentionMap",
    "BottleneckAttribution",
    "Consistency",
    "EXPLAINERS",
    "Edit",
    "Explainer",
    "Faithfulness",
    "GradCAM",
    "GridPointing",
    "Information",
    "IntegratedGradients",
    "Occlusion",
    "Sensitivity",
    "as_cam",
    "auroc",
    "auroc_difference",
    "blurred_random",
    "bootstrap_mean",
    "captum_attribution",
    "centred_gaussian",
    "chance",
    "control_sources",
    "conv_layers",
    "detection_table",
    "edge_map",
    "energy",
    "frequency_edits",
    "from_explainer",
    "grid_pointing_game",
    "hardly_used",
    "iou",
    "localization_scores",
    "localize",
    "make_explainer",
    "map_ablation",
    "map_cosine",
    "map_sensitivity",
    "map_similarity",
    "mean_interval",
    "measure_consistency",
    "measure_information",
    "metric_agreement",
    "other_image",
    "paired_difference",
    "pointing_game",
    "quantus_explain_func",
    "randomized_networks",
    "rank_correlation",
    "reliability_bins",
    "removal_faithfulness",
    "selective_table",
    "uniform",
    "unusualness",
    "wilson_interval",
    "window_edits",
]
