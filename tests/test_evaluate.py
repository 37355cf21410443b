"""Every number of an evaluation against an independent computation from the data file and the weights."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from sklearn.metrics import log_loss, precision_recall_fscore_support

from aib.cli import main
from aib.commands.eval import summary_lines
from aib.commands.train import TrainOptions
from aib.data.augment import normalize
from aib.interpret import map_ablation
from aib.recipes import load_recipe
from aib.train.config import TrainConfig
from aib.train.evaluate import evaluate
from aib.train.loop import train
from aib.train.record import COLUMNS, command_line, record_run
from aib.train.results_table import update_table
from aib.train.run_data import open_run_data
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from tiny import squares, tiny_config, write_folder, write_npz

Trained = tuple[RunFolder, Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run stopped early enough to make mistakes, and its data."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = write_npz(folder / "squares.npz", test=50)
    return train(tiny_config(data, folder / "run", epochs=2)), data


@pytest.fixture(scope="module")
def result(trained: Trained) -> dict[str, Any]:
    return evaluate(trained[0].path)


@pytest.fixture(scope="module")
def by_hand(trained: Trained) -> dict[str, Any]:
    """Probabilities, labels, predictions, maps and rates of the test images, from the file and the weights."""
    folder, data = trained
    with np.load(data) as file:
        train_images, images, labels = file["x_train"], file["x_test"], file["y_test"]
    mean, std = train_images.mean((0, 1, 2)) / 255, train_images.std((0, 1, 2)) / 255
    inputs = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    model = load_run(folder.path).model
    with torch.no_grad():
        details = model.forward_details(inputs)
    assert details.rate is not None
    assert details.map is not None
    probabilities = details.logits.double().softmax(1).numpy()
    return {
        "images": images, "labels": labels, "probabilities": probabilities, "predicted": probabilities.argmax(1),
        "rate": details.rate.numpy(), "maps": details.map.numpy(), "indices": details.indices,
    }  # fmt: skip


def test_error_interval_and_cross_entropy(result: dict[str, Any], by_hand: dict[str, Any]) -> None:
    labels, predicted = by_hand["labels"], by_hand["predicted"]
    wrong, n = int((labels != predicted).sum()), len(labels)
    assert 0 < wrong < n  # otherwise nothing below is worth much
    assert (result["n"], result["error"]) == (50, wrong / n)
    z, p = 1.959964, wrong / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert result["error_interval"] == pytest.approx(
        [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)], abs=1e-6
    )
    assert result["cross_entropy"] == pytest.approx(log_loss(labels, by_hand["probabilities"]), abs=1e-5)
    assert result["label_entropy_bits"] == pytest.approx(-sum(k / 50 * math.log2(k / 50) for k in (17, 17, 16)))
    assert (result["split"], result["data"], result["weights"]) == ("test", "squares", "best")


def test_confusion_and_classes(result: dict[str, Any], by_hand: dict[str, Any]) -> None:
    expected = np.zeros((3, 3), int)
    for label, predicted in zip(by_hand["labels"], by_hand["predicted"]):
        expected[label, predicted] += 1
    assert result["confusion"] == expected.tolist()
    precision, recall, _, counts = precision_recall_fscore_support(by_hand["labels"], by_hand["predicted"], zero_division=0)
    for i, row in enumerate(result["classes"]):
        assert (row["name"], row["n"]) == (str(i), counts[i])
        assert row["error"] == pytest.approx(1 - expected[i, i] / expected[i].sum())
        assert (row["precision"], row["recall"]) == pytest.approx((precision[i], recall[i]))


def test_calibration_error(result: dict[str, Any], by_hand: dict[str, Any]) -> None:
    confidence, right = by_hand["probabilities"].max(1), by_hand["labels"] == by_hand["predicted"]
    ece = 0.0
    counts = {round(15 * row["low"]): row["count"] for row in result["calibration"]}
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            ece += inside.sum() / 50 * abs(confidence[inside].mean() - right[inside].mean())
        assert counts.get(low, 0) == inside.sum()  # empty bins are left out
    assert result["ece"] == pytest.approx(ece, abs=1e-6)


def test_rate_anchors_and_ablation(result: dict[str, Any], by_hand: dict[str, Any], trained: Trained) -> None:
    assert result["rate_bits"] == pytest.approx(by_hand["rate"].mean() / math.log(2), rel=1e-5)
    counts = np.bincount(by_hand["indices"].flatten().numpy(), minlength=8)
    anchors = result["anchors"]
    assert anchors["counts"] == counts.tolist()
    assert anchors["used"] == (counts > 0).sum()
    shares = counts[counts > 0] / counts.sum()
    assert anchors["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert anchors["smallest_gap"] == pytest.approx(np.diff(np.sort(anchors["values"])).min(), rel=1e-5)
    assert set(np.unique(by_hand["maps"])) <= set(np.float32(anchors["values"]))
    assert result["map_relative"] is False
    assert result["map_ablation"]["original"] == result["error"]
    assert result["map_mean"] == pytest.approx(by_hand["maps"].mean(), rel=1e-4)
    last = load_run(trained[0].path, weights="last").model
    assert result["last_error"] is not None
    assert (result["last_error"] == result["error"]) or not all(
        torch.equal(a, b) for a, b in zip(last.state_dict().values(), load_run(trained[0].path).model.state_dict().values())
    )


def test_maps_are_exchanged_between_classes_where_a_set_is_sorted(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels, _ = squares(600, 5)
    order = labels.argsort(kind="stable")
    np.savez(tmp_path / "sorted.npz", x_test=images[order], y_test=labels[order], x_train=images[:30], y_train=labels[:30])
    batches: list[int] = []

    def watched(model: Any, given: Any, seed: int) -> dict[str, float]:
        kept = list(given)
        batches.extend(int(labels.bincount().max()) for _, labels in kept[:-1])
        return map_ablation(model, kept, seed)

    monkeypatch.setattr("aib.train.evaluate.map_ablation", watched)
    evaluate(trained[0].path, data=str(tmp_path / "sorted.npz"))
    assert len(batches) == 2
    assert max(batches) < 120  # of 250; 200 of a class lie together


def test_localisation_is_beside_its_controls(result: dict[str, Any]) -> None:
    assert result["localization"]["n"] == 50
    assert {"AIB", "centre", "uniform", "chance"} <= set(result["localization"]["maps"])
    assert result["localization"]["own"] == "AIB"
    mean, low, high = result["localization"]["maps"]["uniform"]["pointing_game"]
    assert low <= mean <= high
    assert mean == pytest.approx(36 / 256)


def test_the_files_hold_what_was_returned(result: dict[str, Any], trained: Trained, by_hand: dict[str, Any]) -> None:
    folder = trained[0]
    evaluate(folder.path)
    assert folder.read_json("eval/test.json") == json.loads(json.dumps(result))
    with np.load(folder.path / "eval" / "test.npz") as arrays:
        assert np.array_equal(arrays["labels"], by_hand["labels"])
        assert np.array_equal(arrays["predictions"], by_hand["predicted"])
        assert np.allclose(arrays["confidence"], by_hand["probabilities"].max(1), atol=1e-5)
        assert np.allclose(arrays["rate_bits"], by_hand["rate"] / math.log(2), rtol=1e-4)


def test_the_gallery_holds_the_images_and_the_models_own_maps(
    result: dict[str, Any], trained: Trained, by_hand: dict[str, Any]
) -> None:
    items = trained[0].read_json("eval/test-gallery.json")
    root = trained[0].path / "eval"
    known = {image.tobytes(): i for i, image in enumerate(by_hand["images"])}
    groups: dict[str, list[float]] = {}
    for item in items:
        position = known[np.asarray(Image.open(root / item["image"])).tobytes()]
        assert np.allclose(np.load(root / item["map"]), by_hand["maps"][position, 0], atol=1e-6)
        assert item["true"] == str(by_hand["labels"][position])
        assert item["predicted"] == str(by_hand["predicted"][position])
        assert item["confidence"] == pytest.approx(by_hand["probabilities"][position].max(), abs=1e-5)
        assert item["rate_bits"] == pytest.approx(by_hand["rate"][position] / math.log(2), rel=1e-4)
        assert np.asarray(Image.open(root / item["mask"])).astype(bool).sum() == 36
        if item["group"] in ("right", "wrong"):
            assert (item["true"] == item["predicted"]) == (item["group"] == "right")
        groups.setdefault(item["group"], []).append(item["confidence"])
    confidence = sorted(by_hand["probabilities"].max(1))
    assert groups["least certain"] == pytest.approx(confidence[:6], abs=1e-5)
    assert groups["most certain"] == pytest.approx(confidence[:-7:-1], abs=1e-5)
    assert set(groups) == {"right", "wrong", "most certain", "least certain"}
    named = {Path(item[key]).name for item in items for key in ("image", "map", "mask")}
    assert named == {path.name for path in (root / "test-gallery").iterdir()}


def test_validation_can_be_evaluated_and_agrees_with_the_log(trained: Trained) -> None:
    folder = trained[0]
    found = evaluate(folder.path, split="val")
    card = folder.read_json("model.json")
    row = json.loads(folder.metrics.read_text().splitlines()[card["epoch"] - 1])["val"]
    assert found["n"] == 24
    for name in ("error", "cross_entropy", "rate_bits"):
        assert found[name] == pytest.approx(row[name], rel=1e-5)
    with pytest.raises(ValueError, match="split is 'tset'; it must be"):
        evaluate(folder.path, split="tset")


def test_other_data_with_the_same_classes_is_taken_and_different_ones_refused(trained: Trained, tmp_path: Path) -> None:
    folder = trained[0]
    other = write_npz(tmp_path / "others.npz", test=9)
    assert evaluate(folder.path, data=str(other))["n"] == 9
    assert (folder.path / "eval" / "others-test.json").exists()
    run = load_run(folder.path)
    names = write_npz(tmp_path / "names.npz", class_names=np.array(["0", "1", "zwei"]))
    with pytest.raises(ValueError, match=r"other classes than the run was trained on \(they differ in 2, zwei\)"):
        open_run_data(run, str(names))
    swapped = write_npz(tmp_path / "swapped.npz", class_names=np.array(["1", "0", "2"]))
    with pytest.raises(ValueError, match="they differ in order"):
        open_run_data(run, str(swapped))
    with pytest.raises(ValueError, match=r"has 1 channels .*the run was trained on 3"):
        open_run_data(run, str(write_npz(tmp_path / "grey.npz", channels=1)))
    with pytest.raises(ValueError, match="other classes"):
        open_run_data(run, str(write_folder(tmp_path / "photos")))


def test_a_plain_model_has_the_same_numbers_but_none_of_attention(trained: Trained, tmp_path: Path) -> None:
    folder = train(tiny_config(trained[1], tmp_path / "plain", model="vgg_xs", anchors=None, epochs=1))
    found = evaluate(folder.path)
    assert found["n"] == 50
    assert not {"rate_bits", "anchors", "map_ablation", "localization"} & set(found)
    assert all(item["map"] is None and item["rate_bits"] is None for item in folder.read_json("eval/test-gallery.json"))


def test_logits_are_averaged_over_mirror_images(trained: Trained, result: dict[str, Any], by_hand: dict[str, Any]) -> None:
    folder = trained[0]
    run = load_run(folder.path)
    images = torch.from_numpy(by_hand["images"]).permute(0, 3, 1, 2)
    pairs = [normalize(shown, run.mean, run.std) for shown in (images, images.flip(3))]
    with torch.no_grad():
        logits = sum(run.model(inputs) for inputs in pairs) / 2
    found = evaluate(folder.path, mirror=True)
    with np.load(folder.path / "eval" / "test-mirror.npz") as file:
        np.testing.assert_allclose(file["logits"], logits.numpy(), atol=1e-5)
        np.testing.assert_allclose(file["rate_bits"], by_hand["rate"] / math.log(2), rtol=1e-4)
    assert found["cross_entropy"] == pytest.approx(log_loss(by_hand["labels"], logits.double().softmax(1).numpy()), abs=1e-5)
    assert found["cross_entropy"] != pytest.approx(result["cross_entropy"], abs=1e-5)
    assert (found["mirror"], result["mirror"]) == (True, False)
    assert found["map_mean"] == result["map_mean"]
    assert evaluate(folder.path, mirror=True, samples=(2, 2))["cross_entropy"] != found["cross_entropy"]
    assert RunFolder.open(folder.path).has("eval/test-2x2-mirror.json")


def test_the_screen_says_how_logits_came_about_and_what_the_last_epoch_gave(result: dict[str, Any]) -> None:
    def shown(**changed: Any) -> dict[str, str]:
        return dict(re.split(r"  +", line, maxsplit=1) for line in summary_lines({**result, **changed}))

    assert shown(last_error=0.25)["after the last epoch"] == "25.00 %"
    assert "logits averaged" not in shown()
    assert shown(mirror=True)["logits averaged"] == "over the image and its mirror image"
    assert shown(samples=[4, 2])["logits averaged"] == "over 4 x 2 draws"
    assert shown(samples=[4, 2], mirror=True)["logits averaged"] == "over 4 x 2 draws, over the image and its mirror image"


def test_digits_are_not_mirrored(trained: Trained) -> None:
    bundle = replace(open_run_data(load_run(trained[0].path)), mirror=False)
    with pytest.raises(ValueError, match="mirror images of squares do not show the same class"):
        evaluate(trained[0].path, mirror=True, bundle=bundle)


def test_record_replaces_the_row_of_the_same_run(trained: Trained, result: dict[str, Any], tmp_path: Path) -> None:
    folder, table = trained[0], tmp_path / "results" / "runs.csv"

    def rows() -> list[dict[str, str]]:
        with table.open(newline="") as file:
            return list(csv.DictReader(file))

    record_run(folder.path, result, table, TrainConfig())
    record_run(folder.path, {**result, "error": 0.125}, table, TrainConfig())
    (row,) = rows()
    assert tuple(row) == COLUMNS
    assert (row["model"], row["data"], row["seed"], row["epochs"], row["error"]) == ("vgg_xs_aib_qt", "squares", "0", "2", "0.125")
    assert float(row["error_low"]) == pytest.approx(result["error_interval"][0], abs=1e-6)
    assert row["command"].startswith("aib train --data ")
    assert float(row["training_pflop"]) >= 0
    record_run(folder.path, {**result, "split": "val"}, table, TrainConfig())
    record_run(folder.path, {**result, "mirror": True}, table, TrainConfig())
    other = Path(shutil.copytree(folder.path, tmp_path / "other"))
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace("seed = 0\ndevice", "seed = 3\ndevice"))
    record_run(other, result, table, TrainConfig())
    found = [(r["seed"], r["split"], r["mirror"]) for r in rows()]
    assert found == [("0", "test", ""), ("0", "test", "yes"), ("0", "val", ""), ("3", "test", "")]
    older = [row for row in rows() if row.pop("mirror") != "yes"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, older[0])
        writer.writeheader()
        writer.writerows(older)
    record_run(folder.path, {**result, "mirror": True}, table, TrainConfig())  # to a table of before there was that column
    assert [(r["seed"], r["split"], r["mirror"]) for r in rows()] == found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", r"it is another table \(unknown or repeated columns: a, b; missing: data, evaluated_on, .*, command\)"),
        ("data,seed,sead,seed,command\n", r"\(unknown or repeated columns: sead, seed; missing: evaluated_on, model, recipe, beta"),
        ("data,error\n", r"it is another table \(missing: .*, command\)"),
        ("", r"it is another table \(missing: data, .*, command\)"),
        ("data,command\nx\n", "a line has more or fewer values than there are columns"),
    ],
)
def test_another_table_is_refused_before_any_work_and_says_what_is_wrong(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(content)
    with pytest.raises(ValueError, match=said):
        update_table(wrong, COLUMNS, COLUMNS, COLUMNS, [])
    assert wrong.read_text() == content
    absent = ["--set", "data=svhn", f"root={tmp_path}"]  # what would be said next
    assert main(["sweep", *absent, "--out", str(tmp_path / "sweep"), "--record", str(wrong)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("recipe", [None, "clutter/vgg_s_aib_qt"])
def test_the_recorded_command_gives_the_configuration_back(recipe: str | None, tmp_path: Path) -> None:
    base = load_recipe(recipe) if recipe else TrainConfig()
    config = replace(
        base,
        data=replace(base.data, data=str(tmp_path / "two words"), flip=True, image_size=48),
        model=replace(base.model, model="resnet18", attend="layer2", anchors=7),
        optim=replace(base.optim, schedule="step", step_epochs=(2, 3), lr=0.0125, clip_norm=1.0),
        run=replace(base.run, seed=5, out="elsewhere", quiet=True, channels_last=False),
    )
    words = shlex.split(command_line(config, base))
    assert words[:2] == ["aib", "train"]
    given = tyro.cli(TrainOptions, args=words[2:], default=TrainOptions(recipe=recipe, config=base)).config
    assert given == replace(config, run=replace(config.run, out=base.run.out, quiet=base.run.quiet))


def test_a_damaged_last_checkpoint_does_not_hide_the_selected_weights(trained: Trained, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained[0].path, tmp_path / "run"))
    last = copy / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    found = evaluate(copy)
    assert found["last_error"] is None
    assert "last.ckpt" in found["last_unreadable"]
    assert any("last.ckpt" in line for line in summary_lines(found))
    assert not any(line.startswith("after the last epoch") for line in summary_lines(found))
