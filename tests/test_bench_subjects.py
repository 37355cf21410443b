"""Benchmarks, subject by subject: each runs in its smallest form and says what it measured; the command; mistakes in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aib.bench import SUBJECTS, epoch, quantizer, score, start, variants
from aib.bench.record import Findings, Settings, measure_subject
from aib.cli import main
from aib.commands import allocator
from aib.interpret.consistency import Consistency, measure_consistency
from aib.interpret.map_sources import RandomMaps
from aib.train import loop
from aib.train.loop import train
from aib.train.score_sources import CONTROLS
from tiny import tiny_config, write_npz


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_in_its_smallest_form_says_all_there_is(subject: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # processes that import torch take longer than the rest of this file
    light = {name: tuple(word.replace("torch", "json").replace("; aib.create_model", "") for word in words)
             for name, words in start.WORDS.items()}  # fmt: skip
    monkeypatch.setattr(start, "WORDS", light)
    methods = {name: getattr(loop._Fit, name) for name in ("_epoch", "_step", "_keep")}
    threads, state, said = torch.get_num_threads(), torch.get_rng_state(), []
    chosen = Settings(quick=True, repeats=1, threads=1, batch_size=2)
    result = measure_subject(subject, chosen, out=tmp_path / "new" / "out", command=f"aib bench {subject}", say=said.append)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: getattr(loop._Fit, name) for name in methods} == methods

    assert json.loads((tmp_path / "new" / "out" / f"{subject}.json").read_text()) == result
    assert (result["subject"], result["command"], result["about"]) == (subject, f"aib bench {subject}", SUBJECTS[subject])
    assert "arget" in result["definition"]  # it says which, or that there is none
    assert (result["settings"]["repeats"], result["settings"]["quick"], result["machine"]["threads"]) == (1, True, 1)
    assert result["machine"].keys() >= {"cpu", "cores", "device", "torch", "python", "aib", "commit", "date", "load", "load_after"}
    assert said
    assert result["rows"] or result["details"]
    for row in result["rows"]:
        assert row["reference"] in row["variants"]
        assert sorted(row["orders"][0]) == sorted(row["variants"])
        for variant in row["variants"].values():
            assert len(variant["seconds"]) == len(variant["ratios"]) == len(variant["processor_seconds"]) == 1
            assert variant["seconds_median"] > 0
            assert variant["peak_bytes"] is None or variant["peak_bytes"] > 0
    for target in result["targets"]:
        assert target["reached"] in ("yes", "no", "unclear")
        assert target["wanted"].split()[0] in ("<", "<=", ">=")
        assert target["reached"] == "unclear" or target["measured"][1] is not None
    assert f"bench/{subject}.py" in result["sources"]
    assert result["run_command"] is None
    CHECKS.get(subject, lambda result: None)(result)


def check_step(result: dict[str, Any]) -> None:
    assert [target["name"].rpartition(", ")[2] for target in result["targets"]] == [
        "contiguous: step / floor", "with their convolutions and linear layers", "on their own"
    ] * 2  # fmt: skip
    for name, details in result["details"].items():
        shares = {part: share[0] for part, share in details["shares"].items()}
        rounds = details["share_rounds"]
        assert 0 < min(shares["quantizer"], shares["modulation"]) < shares["own"] < shares["all"] < 1
        parts = ("attention", "quantizer", "modulation", "bottleneck")
        assert shares["own"] == pytest.approx(sum(shares[part] for part in parts), rel=1e-4)
        assert shares["own"] == pytest.approx(rounds["own"][0], rel=1e-4)
        assert "attention_head" in shares  # of a difference of two short times, which may be below 0
        assert "convolution_backward" in details["operation_shares"]
        # the published head of the wide network is most of it, whatever its width; that of the other is one convolution
        assert (details["attention_share_of_operations"] > 0.4) is name.startswith("wrn")


def check_variants(result: dict[str, Any]) -> None:
    assert [row["case"]["what"] for row in result["rows"]] == ["training step", "pass in eval mode", "augmentation"]
    differences = {name.rpartition(", ")[2]: details["largest_difference"] for name, details in result["details"].items()}
    assert differences["both in one pass"] == 0
    assert max(differences.values()) < 1e-3
    assert {name: value for name, (_, value) in allocator.SETTINGS.items()} == variants.KEEPING


def check_quantizer(result: dict[str, Any]) -> None:
    large = result["rows"][-1]["variants"]
    assert large["table of distances"]["peak_bytes"] > 10 * large["aib.AnchorQuantizer"]["peak_bytes"]
    others = len(large) - 1  # vector-quantize-pytorch where it is installed
    assert [target["name"].split()[0] for target in result["targets"]] == ["2"] * 4 * others + ["memory:"] * 2


def test_a_single_map_is_measured_and_not_judged() -> None:
    found = quantizer.measure(Settings(quick=True, repeats=1, threads=1), lambda line: None)
    assert [row["case"]["maps"].split()[0] for row in found.rows] == ["1", "1", "8", "8", "8", "8"]
    assert not [target for target in found.targets if target.name.startswith("1 of")]
    assert found.targets[-2].reached == "yes"  # the memory's exponent in the positions


def check_samples(result: dict[str, Any]) -> None:
    (row,) = result["rows"]
    variants = row["variants"]
    assert variants["16 passes of one draw"]["per_second"] == pytest.approx(
        2 / variants["16 passes of one draw"]["seconds"][0], rel=1e-4
    )
    # 4 encodings, not 16; features and attention once
    assert 1 / 16 < result["details"]["vgg_aib_qt"]["ratio_by_macs"] < 4 / 16
    assert variants["samples=(4, 4)"]["processor_ratio"][0] < 0.8


def check_epoch(result: dict[str, Any]) -> None:
    assert result["details"].keys() == {"memory", "files"}
    for details in result["details"].values():
        (only,) = details["epochs"]
        assert sum(only[part] for part in epoch.PARTS) == pytest.approx(only["training"])
        assert min(only.values()) >= 0
        assert only["network"] > 0.3 * only["training"]
        assert sum(share[0] for part, share in details["shares"].items() if part != "outside") == pytest.approx(1, abs=1e-4)
    # a single round does not tell whether they keep up
    assert result["notes"][-1].startswith("alone the workers decode ")


def check_growth(result: dict[str, Any]) -> None:
    assert result["details"].keys() == {"batch", "side", "width", "anchors", "draws"}
    memory = {what: details["memory_exponent"][0] for what, details in result["details"].items()}
    assert memory["anchors"] == pytest.approx(0, abs=0.02)
    assert 0.5 < memory["batch"] < 1.05
    assert memory["draws"] < 1


def check_explain(result: dict[str, Any]) -> None:
    (row,) = result["rows"]
    assert row["reference"] == "own attention map"
    assert row["variants"]["occlusion"]["processor_ratio"][0] > row["variants"]["own attention map"]["processor_ratio"][0]


def check_score(result: dict[str, Any]) -> None:
    (row,), (target,) = result["rows"], result["targets"]
    scored = row["variants"]["scored beside controls"]
    assert target["measured"] == scored["processor_ratio"] != scored["ratio"]
    assert target["name"].endswith("scored beside controls / bare, of the processor")


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "step": check_step, "quantizer": check_quantizer, "samples": check_samples, "epoch": check_epoch, "growth": check_growth,
    "explain": check_explain, "score": check_score, "variants": check_variants,
}  # fmt: skip


def test_scored_is_what_the_command_scores_on_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Consistency] = []
    drawn: list[RandomMaps] = []

    def kept(*values: Any, **keywords: Any) -> Consistency:
        drawn.extend(source for source in values[5].values() if isinstance(source, RandomMaps))
        found.append(measure_consistency(*values, **keywords))
        return found[-1]

    monkeypatch.setattr(score, "measure_consistency", kept)
    measure_subject("score", Settings(quick=True, repeats=1, threads=1, batch_size=2))
    assert found
    for result in found:
        assert list(result.own) == ["own map", *CONTROLS]
    assert {source.size for source in drawn} == {(16, 16)}  # that of the own map


def test_the_command_prints_ratios_beside_times_and_a_runs_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = train(tiny_config(write_npz(tmp_path / "squares.npz", train=48, val=12, test=12), tmp_path / "run", epochs=1))
    options = ["--quick", "--repeats", "2", "--out", str(tmp_path / "out"), "--run", str(run.path), "--threads", "1"]
    assert main(["bench", "samples", "score", *options]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.strip().startswith("samples=(4, 4) "))
    assert "MiB" in row
    assert "[" not in row
    assert "medians of 2 rounds, too few for intervals; saved in" in said
    assert said.count("% error") == 3
    assert f"saved in {tmp_path / 'out'}: samples.json, score.json" in said
    (scored,) = json.loads((tmp_path / "out" / "score.json").read_text())["rows"]
    assert scored["case"] == {"model": f"vgg_xs_aib_qt ({run.path})", "images": 12, "batch": 64}
    result = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert result["command"] == f"aib bench samples --repeats 2 --threads 1 --quick --run {run.path}"  # of this subject alone
    assert result["run_command"].startswith("aib train --data ")
    assert result["run_command"].endswith(f" --seed 0 --out {run.path}")
    assert {error["images"] for error in result["details"]["errors"].values()} == {12}
    plain = train(tiny_config(tmp_path / "squares.npz", tmp_path / "plain", epochs=1, model="vgg_xs", anchors=None))
    given = ("--quick", "--run", str(plain.path), *options[3:5])
    assert "is a vgg_xs, which draws nothing" in refused(capsys, "samples", *given)
    assert "is a vgg_xs, which has no map to score" in refused(capsys, "score", *given)


@pytest.mark.slow
def test_two_processes_step_with_and_without_kept_memory() -> None:
    found = Findings()
    variants._allocator({"model": "vgg_aib_qt", "batch": 2, "width": 0.1}, Settings(quick=True, repeats=2, threads=1), found)
    (row,) = found.rows
    assert row["variants"].keys() == {"freed memory returned", "freed memory kept"}
    assert all(seconds > 0 for variant in row["variants"].values() for seconds in variant["processor_seconds"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aib bench: ")
    return line


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert "--run is for the subjects samples and score" in refused(capsys, "step", "--run", str(tmp_path), *out)
    assert "--width goes without --run" in refused(capsys, "score", "--run", str(tmp_path), "--width", "1", *out)
    assert "no subject 'stepp'; did you mean 'step'? Subjects are step, quantizer" in refused(capsys, "score", "stepp", *out)
    assert "repeats is 0; it must be at least 1" in refused(capsys, "step", "--repeats", "0", *out)
    assert "threads is 0" in refused(capsys, "step", "--threads", "0", *out)
    assert f"threads is 9999; this machine has {os.cpu_count()} processors" in refused(capsys, "step", "--threads", "9999", *out)
    assert "--width is for the subjects step, samples" in refused(capsys, "quantizer", "--width", "0.5", *out)
    assert "batch_size is -1" in refused(capsys, "step", "--batch-size", "-1", *out)
    assert "width is 9.0; it must lie between 0.1 and 4" in refused(capsys, "step", "--width", "9", *out)
    assert "did you mean --repeats?" in refused(capsys, "step", "--repeat", "3", *out)
    assert "invalid choice 'tpu'" in refused(capsys, "step", "--device", "tpu", *out)
    if not torch.cuda.is_available():
        assert "device is 'cuda', which this machine lacks" in refused(capsys, "step", "--device", "cuda", *out)
    assert "is not a run folder" in refused(capsys, "samples", "--run", str(tmp_path), "--quick", *out)
    assert "Not a directory" in refused(capsys, "step", "--out", "/dev/null/x")
