"""The numbers of the consistency score: intervals, summaries and comparisons; cosines of maps, and the controls as sources."""

from __future__ import annotations

import csv
import importlib.resources
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aib.interpret.consistency import BLOCK, COSINE_DRAWS, OWN_MAP, THRESHOLDS, Consistency
from aib.interpret.controls import uniform
from aib.interpret.intervals import bootstrap_mean, bootstrap_means, correlated, difference_interval, paired_shares
from aib.interpret.map_sources import RandomMaps, control_sources, from_control, map_cosine
from aib.interpret.named_edits import Edit, frequency_edits, window_edits
from test_consistency import Planted, blobs, brightness, dark_or_bright, measure, slow_cosine


def test_controls_are_averaged_to_the_size_asked_for() -> None:
    pixels = torch.rand(3, 3, 8, 8) * 255
    for name, source in control_sources((4, 2)).items():
        if isinstance(source, RandomMaps):
            maps = source.draw(pixels[None], ["original"], 0, 3)
        else:
            maps = source(pixels, pixels, torch.zeros(3).long())
        assert maps.shape == (3, 1, 4, 2), name
        if name in ("uniform", "centre"):
            assert maps.stride(0) == 0, f"{name} is averaged for every image anew"
    assert from_control(uniform)(pixels, pixels, torch.zeros(3).long()).shape == (3, 1, 8, 8)


def test_random_maps_are_fresh_for_every_image_and_version_and_repeat_with_the_seed() -> None:
    versions = torch.zeros(2, 2 * BLOCK, 3, 8, 8)
    maps = RandomMaps().draw(versions, ["original", "a"], 0, BLOCK)
    assert maps.flatten(1).unique(dim=0).shape[0] == 4 * BLOCK
    assert torch.equal(RandomMaps().draw(versions[1:, BLOCK:], ["a"], 1, BLOCK), maps[3 * BLOCK :])
    assert not torch.equal(RandomMaps(1).draw(versions, ["original", "a"], 0, BLOCK), maps)


@given(scale=st.floats(1e-30, 1e30), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_cosine_knows_no_scale_and_is_one_for_equal_maps(scale: float, seed: int) -> None:
    maps = torch.rand(4, 1, 5, 3, generator=torch.Generator().manual_seed(seed)) + 0.1
    assert map_cosine(maps, maps).tolist() == [1.0] * 4
    torch.testing.assert_close(map_cosine(maps, maps * scale), torch.ones(4), atol=1e-6, rtol=0)
    turned = maps.roll(1, 0)
    expected = torch.tensor([slow_cosine(a.numpy(), b.numpy()) for a, b in zip(maps, turned)])
    torch.testing.assert_close(map_cosine(maps, turned).double(), expected.double(), atol=1e-6, rtol=0)


def test_the_best_control_is_named_and_the_differences_are_paired() -> None:
    edit = Edit("any", 1, lambda images, _: images)
    stays = {OWN_MAP: [1, 1, 1, 0, 1, 1], "uniform": [1, 1, 1, 1, 1, 1], "edges": [1, 1, 0, 0, 1, 0]}
    passes = {OWN_MAP: [0, 0, 1, 0, 0, 0], "uniform": [1, 1, 1, 1, 1, 1], "edges": [0, 0, 0, 0, 0, 0]}
    same_class = torch.zeros(6, dtype=torch.int64)
    result = Consistency(
        (edit,), same_class, same_class[None], same_class,
        {name: torch.tensor([row]).float() for name, row in stays.items()},
        {name: torch.tensor([row]).float() for name, row in passes.items()},
        {name: torch.tensor([row]).float() / 2 for name, row in stays.items()},
        {name: torch.tensor([row]).float() for name, row in passes.items()},
    )  # fmt: skip
    comparison = result.comparison(edit, thresholds=[0.5])
    assert comparison["thresholds"]["0.5"]["excess"]["control"] == "edges"  # 3/6, the uniform map has 0
    own, edges = ([np.array(values[name]) for values in (stays, passes)] for name in (OWN_MAP, "edges"))
    expected = difference_interval(paired_shares(*own), paired_shares(*edges), correlated(own[0] - own[1], edges[0] - edges[1]))
    assert comparison["thresholds"]["0.5"]["excess"]["difference"] == list(expected)
    assert expected[0] == pytest.approx(1 / 6)
    assert expected[1] < 0 < expected[2]  # one image of six decides nothing
    assert comparison["thresholds"]["0.5"]["score"] == {
        "control": "uniform", "difference": list(paired_shares(stays[OWN_MAP], stays["uniform"])),
    }  # fmt: skip
    # the map 5/2 - 1 of 6, the edges 3/2, the uniform map 6/2 - 6
    assert comparison["correlation"]["control"] == "edges"
    assert comparison["correlation"]["difference"][0] == pytest.approx((1.5 - 1.5) / 6)
    assert comparison["correlation"]["difference"][1] < 0 < comparison["correlation"]["difference"][2]
    assert result.summary("edges", edit)["correlation"]["excess"][0] == pytest.approx(1.5 / 6)
    assert result.comparison(edit, controls=["edges"], thresholds=[0.5])["thresholds"]["0.5"]["score"]["difference"][0] > 0
    assert result.comparison(edit, "uniform", [OWN_MAP])["source"] == "uniform"


def test_mean_cosines_have_the_interval_of_a_bootstrap_over_the_images_that_count() -> None:
    edit = Edit("any", 1, lambda images, _: images)
    cosines = torch.rand(300, generator=torch.Generator().manual_seed(0))
    cosines[5:9] = math.nan
    before, after = torch.zeros(300, dtype=torch.int64), torch.zeros(1, 300, dtype=torch.int64)
    after[0, 200:] = 1  # these predictions change
    without = {"a": torch.full((1, 300), math.nan)}
    found = Consistency((edit,), before, after, before, {"a": cosines[None]}, without, {"a": cosines[None]}, without)
    summary = found.summary("a", edit)
    kept = cosines[:200][~cosines[:200].isnan()].double()
    mean, low, high = summary["cosine_own"]
    error = float(kept.std()) / math.sqrt(len(kept))
    assert mean == pytest.approx(float(kept.mean()))
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
    assert summary["cosine_other"] is None
    correlation = summary["correlation"]  # 0 where there is none, which takes nothing away from the others' share
    assert correlation["other"] == [0.0, 0.0, 0.0]
    assert correlation["own"] == correlation["excess"]
    assert correlation["own"][0] == pytest.approx(float(kept.sum()) / 200)


def test_all_sources_are_resampled_together_once_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def counting(values: np.ndarray, **keywords: int) -> np.ndarray:
        drawn.append(values.shape)
        return bootstrap_means(values, **keywords)

    monkeypatch.setattr("aib.interpret.consistency.bootstrap_means", counting)
    edits = window_edits([2, 8])
    result = measure(Planted(brightness), blobs(), edits, control_sources())
    summaries = {(source, edit): result.summary(source, edit) for source in result.own for edit in edits}
    assert len(drawn) == len(edits)
    for row, edit in enumerate(edits):
        kept = result.unchanged[row]
        assert kept.any()
        for source in result.own:
            own, other = (found[source][row][kept].double().numpy() for found in (result.own, result.other))
            alike, unlike = (
                found[source][row][kept].double().nan_to_num(0.0).numpy()
                for found in (result.own_correlation, result.other_correlation)
            )
            summary = summaries[source, edit]
            found = [summary["cosine_own"], summary["cosine_other"], *summary["correlation"].values()]
            for numbers, values in zip(found, (own, other, alike, unlike, alike - unlike)):
                assert numbers == pytest.approx(bootstrap_mean(values, draws=COSINE_DRAWS), abs=1e-12)


def test_beside_a_constant_control_no_raw_difference_is_above_zero() -> None:
    edits = window_edits([2, 8])
    result = measure(Planted(brightness), blobs(), edits, control_sources())
    for edit in edits:
        for at in result.comparison(edit)["thresholds"].values():
            assert at["score"]["control"] == "uniform"
            assert at["score"]["difference"][0] <= 0
            assert at["excess"]["difference"][0] <= result.summary(OWN_MAP, edit)["thresholds"]["0.85"]["score"][0]


def test_summaries_are_json_and_say_what_they_are_of() -> None:
    edits = window_edits([4], {"SVHN": torch.zeros(1, 3, 8, 8)}) + frequency_edits([5], [3])
    result = measure(Planted(brightness, dark_or_bright), blobs(), edits, control_sources())
    assert [edit.label for edit in edits] == ["colour window 4", "SVHN window 4", "low frequencies 5", "high frequencies 3"]
    for edit in edits:
        for source in result.own:
            summary = json.loads(json.dumps(result.summary(source, edit), allow_nan=False))
            assert (summary["source"], summary["edit"], summary["size"]) == (source, edit.name, edit.size)
            assert summary["unchanged"] == int(result.unchanged[result.edits.index(edit)].sum())
            assert list(summary["thresholds"]) == [f"{t:g}" for t in THRESHOLDS]
            scores = [summary["thresholds"][f"{t:g}"]["score"] for t in THRESHOLDS]
            if summary["unchanged"]:
                assert [score[0] for score in scores] == sorted((score[0] for score in scores), reverse=True)
        json.dumps(result.comparison(edit), allow_nan=False)


def test_the_edits_are_called_as_in_the_published_table() -> None:
    with (importlib.resources.files("aib.paper") / "published/table2.csv").open(encoding="utf-8") as file:
        published = {(row["edit"], row["size"]) for row in csv.DictReader(file)}
    ours = window_edits(others={"SVHN": torch.zeros(1, 3, 32, 32)})
    assert {(edit.name, str(edit.size)) for edit in ours} | {(edit.name, "") for edit in frequency_edits()} == published


def test_a_summary_of_what_was_not_measured_is_refused() -> None:
    edits = window_edits([4])
    result = measure(Planted(brightness), blobs(4), edits)
    with pytest.raises(ValueError, match=r"no source 'own mop'; did you mean 'own map'\? These were measured: own map"):
        result.summary("own mop", edits[0])
    with pytest.raises(ValueError, match="'colour window 8' was not measured; these were: colour window 4"):
        result.summary(OWN_MAP, window_edits([8])[0])
    for threshold in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="a threshold is"):
            result.summary(OWN_MAP, edits[0], [threshold])
    with pytest.raises(ValueError, match="'own map' has no control to be compared with"):
        result.comparison(edits[0])
    with pytest.raises(ValueError, match="no source 'edges'"):
        result.comparison(edits[0], controls=["edges"])
    with pytest.raises(ValueError, match=r"maps have shapes \(1, 1, 2, 2\) and \(1, 1, 2, 3\)"):
        map_cosine(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3))
