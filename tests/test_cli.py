"""The command line as a person uses it: exit codes, one line for every mistake, and the files it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aib.cli import COMMANDS, main
from aib.data.images import read_image
from aib.train.loop import train
from aib.train.run_folder import RunFolder
from aib.train.weights import load_run
from tiny import SIDE, TABLE, squares, tiny_config, write_folder, write_npz

Capture = pytest.CaptureFixture[str]
SHORT = ("--model", "vgg_xs_aib_qt", "--anchors", "8", "--epochs", "1", "--batch-size", "8", "--device", "cpu")


def aib(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real process."""
    words = [sys.executable, "-m", "aib", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, **options)


def refused(capsys: Capture, *arguments: object) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aib {arguments[0]}: ")
    return line


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(tiny_config(photos, tmp_path_factory.mktemp("runs") / "run", epochs=2, batch_size=8))


# --- before anything is imported


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from aib.cli import main; code = main(['--help']); "
        "print(code, sorted({'torch', 'numpy', 'timm', 'rich', 'tyro'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
    assert found.stdout.splitlines()[-1] == "0 []"
    for verb in COMMANDS:
        assert f"\n  {verb} " in found.stdout
    assert min(seconds) < 0.5


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_every_verb_is_had_without_torch(verb: str) -> None:
    probe = f"import sys; from aib.cli import main; code = main([{verb!r}, '--help']); print(code, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 False"
    assert f"aib {verb}" in found.stdout


def test_no_verb_a_wrong_verb_and_the_version(capsys: Capture) -> None:
    assert main([]) == 0
    assert "usage: aib COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("aib ")
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "aib: unknown command 'trian'; did you mean 'train'?\n"
    assert main(["zzz"]) == 2
    assert "it must be one of demo, train, eval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--epochz", "3"], ["unrecognized options: --epochz", "(did you mean --epochs?)"]),
        (["train", "--schedule", "cosin"], ["invalid choice 'cosin'", "(did you mean cosine?)"]),
        (["train", "--epochs", "three"], ["parsing --epochs: 'three' is not a whole number"]),
        (["train", "--lr", "fast"], ["parsing --lr: 'fast' is not a number"]),
        (["train", "--epochs", "0"], ["epochs is 0"]),
        (["train", "--optimizer", "adm"], ["adm", "sgd", "adamw"]),
        (["eval"], ["missing", "Run folder"]),
        (["sites"], ["missing"]),
        (["eval", "run", "--samples", "3"], ["--samples"]),
    ],
)
def test_bad_options_end_with_2_and_name_the_option(capsys: Capture, arguments: list[str], words: list[str]) -> None:
    said = refused(capsys, *arguments)
    assert all(word in said for word in words), said
    assert said.endswith(f"; see aib {arguments[0]} --help")


def test_the_options_of_train_are_the_fields_of_the_configuration(capsys: Capture) -> None:
    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    switches = ("flip", "alternate_flip", "nesterov", "download", "skip_bad", "channels_last", "compile", "quiet", "revive_anchors")
    for name in TABLE:
        assert (f"--{name.replace('_', '-')} " in said) or name in switches, name


# --- a mistake is one line


def test_mistakes_in_the_data_are_one_line(capsys: Capture, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run", *SHORT)
    assert "no path 'nowhere'" in refused(capsys, "train", "--data", "nowhere", *out)
    assert "did you mean 'cifar10'" in refused(capsys, "train", "--data", "cifar1O", *out)
    file = tmp_path / "mine.toml"
    file.write_text("")
    assert f"root is {file}, a file" in refused(capsys, "train", "--data", "cifar10", "--root", file, *out)
    one = write_folder(tmp_path / "one")
    for name in ("green", "blue"):
        for file in (one / name).iterdir():
            file.unlink()
    assert "class 'blue' has no image" in refused(capsys, "train", "--data", one, *out)
    for name in ("green", "blue"):
        (one / name).rmdir()
    assert "has one class, 'red'" in refused(capsys, "train", "--data", one, *out)
    labels = np.arange(96) % 3
    labels[5] = -1
    assert f"lies inside the data folder {one}" in refused(capsys, "train", "--data", one, "--out", one / "run", *SHORT)
    assert "label -1" in refused(capsys, "train", "--data", write_npz(tmp_path / "labels.npz", y_train=labels), *out)
    pixels = (squares(96, 0)[0] / 255).astype(np.float32)
    pixels[3, 2, 2, 0] = np.nan
    assert "NaN or infinite pixels, first in image 3" in refused(
        capsys, "train", "--data", write_npz(tmp_path / "nan.npz", x_train=pixels), *out
    )
    assert not (tmp_path / "run").exists()


def test_an_unreadable_file_is_named_or_left_out_and_counted(capsys: Capture, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos")
    bad = photos / "green" / "001.png"
    bad.write_bytes(bad.read_bytes()[:200])
    line = refused(capsys, "train", "--data", photos, "--out", tmp_path / "run", *SHORT)
    assert "green/001.png cannot be read as an image" in line
    assert "--skip-bad" in line
    assert not (tmp_path / "run").exists()
    assert main(["train", "--data", str(photos), "--out", str(tmp_path / "run"), *SHORT, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "left out 1 files" in said
    assert "green/001.png" in said


def test_mistakes_in_model_recipe_device_and_folder_are_one_line(
    capsys: Capture, photos: Path, tmp_path: Path, run: RunFolder
) -> None:
    start = ("train", "--data", photos, "--out", tmp_path / "run", "--device", "cpu")
    assert "did you mean vgg_" in refused(capsys, *start, "--model", "vgg_xs_aibqt")
    assert "--attend is for timm models" in refused(capsys, *start, "--model", "vgg_xs", "--attend", "features")
    assert "anchors is 9999" in refused(capsys, *start, "--model", "vgg_xs_aib_qt", "--anchors", "9999")
    assert "mean has 1 values and std 3; photos has images of 3 channels" in refused(
        capsys, *start, "--mean", "0.5", "--std", "0.2", "0.2", "0.2"
    )
    assert "no std is 0" in refused(capsys, *start, "--mean", "0.5", "--std", "0")
    assert "cannot take images of 3x16x16" in refused(capsys, *start, "--model", "inception_v3")
    assert "1x1 for images of 16x16" in refused(capsys, *start, "--model", "resnet18", "--attend", "layer4")
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[optim]\nepocs = 3\n")
    assert "unknown key in [optim]: 'epocs'; did you mean 'epochs'?" in refused(capsys, "train", "--recipe", recipe)
    assert "no recipe at" in refused(capsys, "train", "--recipe", tmp_path / "absent.toml")
    if not torch.cuda.is_available():
        assert "'cuda', which this machine lacks; it has " in refused(capsys, *start[:-1], "cuda")
    assert not (tmp_path / "run").exists()
    assert "Not a directory (/dev/null/x" in refused(capsys, *start[:3], "--out", "/dev/null/x", *SHORT)
    assert "exists and is not empty: continue it with --resume" in refused(capsys, *start[:3], "--out", run.path, *SHORT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("paper/cifar10/vgg_aib_qt", "--model", "vgg"), "gives; take --recipe paper/cifar10/vgg, or none"),
        (("clutter/vgg_s_aib_qt", "--model", "vgg"), "gives; take a recipe of such a model, or none"),
    ],
)
def test_an_option_that_only_the_recipe_gives_is_told_as_such(
    capsys: Capture, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert main(["train", "--recipe", *arguments, "--root", str(tmp_path), "--data", "none.npz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aib train: vgg has no option ")
    assert f", which the recipe {arguments[0]} {said}" in line


def test_mistakes_in_resuming_are_one_line(capsys: Capture, run: RunFolder, tmp_path: Path) -> None:
    assert "is not a run folder" in refused(capsys, "train", "--resume", tmp_path)
    assert (
        "with it go only --device, --devices, --accumulate, --checkpoint-minutes, --quiet, --root, --download, --workers"
        in refused(capsys, "train", "--resume", run.path, "--epochs", "9")
    )
    assert "has finished its 2 epochs; there is nothing to resume" in refused(capsys, "train", "--resume", run.path)


def test_a_wrong_site_of_a_timm_model_names_right_ones(capsys: Capture, photos: Path, tmp_path: Path) -> None:
    line = refused(capsys, "train", "--data", photos, "--out", tmp_path / "run", "--model", "resnet18", "--attend", "layer9")
    assert "no site 'layer9'" in line
    assert "layer2" in line
    assert main(["sites", "resnet18", "--image-size", "32"]) == 0
    assert "layer2" in capsys.readouterr().out


def test_a_diverging_run_is_one_line(capsys: Capture, photos: Path, tmp_path: Path) -> None:
    line = refused(capsys, "train", "--data", photos, "--out", tmp_path / "run", *SHORT, "--lr", "1000", "--quiet")
    assert "is not a finite number at step" in line
    assert "try a lower --lr" in line


def test_mistakes_in_eval_and_explain_are_one_line(capsys: Capture, photos: Path, run: RunFolder, tmp_path: Path) -> None:
    image = photos / "red" / "000.png"
    assert "is not a run folder" in refused(capsys, "eval", tmp_path)
    assert "samples is (0, 1)" in refused(capsys, "eval", run.path, "--samples", "0", "1")
    assert "no file at" in refused(capsys, "explain", run.path, tmp_path / "absent.png")
    assert "no image given" in refused(capsys, "explain", run.path)
    assert "holds no image file" in refused(capsys, "explain", run.path, tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png cannot be read as an image" in refused(
        capsys, "explain", run.path, tmp_path / "text.png", "--out", tmp_path / "out"
    )
    assert "Not a directory" in refused(capsys, "explain", run.path, image, "--out", "/dev/null/x")
    plain = train(tiny_config(photos, tmp_path / "plain", model="vgg_xs", anchors=None, epochs=1, batch_size=8))
    assert "has no attention (vgg_xs is a plain classifier)" in refused(capsys, "explain", plain.path, image)


# --- what works


def test_explain_leaves_the_models_own_map_and_prediction(capsys: Capture, photos: Path, run: RunFolder, tmp_path: Path) -> None:
    twins = tmp_path / "twins"
    for name, source in (("a", "red/000.png"), ("b", "green/001.png")):
        (twins / name).mkdir(parents=True)
        (twins / name / "same.png").write_bytes((photos / source).read_bytes())
    out = tmp_path / "out"
    for _ in range(2):  # a second run overwrites the first
        assert main(["explain", str(run.path), str(photos / "blue"), str(twins), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    blue = [path.stem for path in sorted((photos / "blue").iterdir())]
    assert {path.name for path in out.iterdir()} == {
        f"{stem}.{ending}" for stem in (*blue, "same", "same-2") for ending in ("npy", "png", "json")
    }
    trained = load_run(run.path)
    for stem, file in (
        (blue[0], photos / "blue" / f"{blue[0]}.png"),
        ("same", twins / "a" / "same.png"),
        ("same-2", twins / "b" / "same.png"),
    ):
        pixels = read_image(file, SIDE).double() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (trained.mean, trained.std))
        with torch.no_grad():
            details = trained.model.forward_details(((pixels - mean) / std).float()[None])  # type: ignore[attr-defined]
        raw, record = np.load(out / f"{stem}.npy"), json.loads((out / f"{stem}.json").read_text())
        assert raw.shape == details.map.shape[2:]
        assert raw.dtype == np.float32
        assert np.allclose(raw, details.map[0, 0], atol=1e-6)
        probabilities = details.logits.softmax(1)[0]
        assert record["image"] == str(file)
        assert list(record["probabilities"]) == ["blue", "green", "red"]
        assert list(record["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-5)
        assert record["prediction"] == trained.class_names[int(probabilities.argmax())]
        assert record["confidence"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert record["rate_bits"] == pytest.approx(float(details.rate[0]) / np.log(2), rel=1e-4)
        assert record["map"]["anchors"] == pytest.approx(trained.model.quantizer.anchors.tolist())  # type: ignore[union-attr]
        assert (record["map"]["least"], record["map"]["greatest"]) == pytest.approx((raw.min(), raw.max()))
        assert record["map"]["relative"] is False
        assert f"{file}  {record['prediction']}" in said
        with Image.open(out / f"{stem}.png") as overlay:
            assert overlay.format == "PNG"
            assert min(overlay.size) > 100


def test_explain_can_leave_bad_files_out(capsys: Capture, photos: Path, run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert (
        main(["explain", str(run.path), str(photos / "red"), str(tmp_path / "bad.jpg"), "--skip-bad", "--out", str(tmp_path / "o")])
        == 0
    )
    said = capsys.readouterr().out
    assert "left out 1 of 13 files" in said
    assert "bad.jpg" in said
    assert len(list((tmp_path / "o").glob("*.npy"))) == 12


def test_eval_prints_its_numbers_and_records_them(capsys: Capture, run: RunFolder, tmp_path: Path) -> None:
    assert main(["eval", str(run.path), "--split", "val", "--record", str(tmp_path / "runs.csv")]) == 0
    said = capsys.readouterr().out
    found = json.loads((run.path / "eval" / "val.json").read_text())
    assert f"{100 * found['error']:.2f} %" in said
    assert f"{found['rate_bits']:.2f} bits" in said
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 2


def test_grey_images_work_end_to_end(capsys: Capture, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "grey.npz", channels=1)
    folder = tmp_path / "run"
    assert main(["train", "--data", str(data), "--out", str(folder), *SHORT, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["eval", str(folder)]) == 0
    card = json.loads((folder / "model.json").read_text())
    assert (card["channels"], len(card["mean"])) == (1, 1)
    Image.fromarray(squares(1, 9, 1)[0][0, :, :, 0]).save(tmp_path / "one.png")
    Image.fromarray(squares(1, 9)[0][0]).save(tmp_path / "colour.png")  # becomes grey
    assert (
        main(["explain", str(folder), str(tmp_path / "one.png"), str(tmp_path / "colour.png"), "--out", str(tmp_path / "o")]) == 0
    )
    assert len(list((tmp_path / "o").iterdir())) == 6


def test_options_override_a_recipe(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f"[data]\ndata = {str(photos)!r}\n[model]\nmodel = 'vgg_xs'\n[optim]\nepochs = 7\nbatch_size = 8\nlr = 0.02\n"
    )
    folder = tmp_path / "run"
    assert main(["train", "--recipe", str(recipe), "--epochs", "1", "--seed", "3", "--out", str(folder), "--quiet"]) == 0
    config = RunFolder.open(folder).config
    assert (config.optim.epochs, config.optim.lr, config.model.model, config.run.seed) == (1, 0.02, "vgg_xs", 3)
    assert config.run.recipe == str(recipe)


# --- real processes


@pytest.mark.slow
def test_a_process_from_train_to_eval_and_explain(photos: Path, tmp_path: Path) -> None:
    found = aib("train", "--data", photos, "--out", "run", *SHORT, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
    assert found.stdout.splitlines()[0].startswith("epoch 1/1  train loss")
    assert "next: aib eval run" in found.stdout
    assert aib("eval", "run", cwd=tmp_path).returncode == 0
    assert aib("explain", "run", photos / "red" / "000.png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "explained" / "000.npy").exists()


@pytest.mark.slow
def test_pretrained_weights_without_network_are_one_line_and_soon(photos: Path, tmp_path: Path) -> None:
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    environment = {k: v for k, v in os.environ.items() if k not in proxies}
    # a host that no network has
    environment |= {"HF_ENDPOINT": "https://weights.invalid", "HF_HOME": str(tmp_path / "cache")}
    began = time.monotonic()
    found = aib("train", "--data", photos, "--model", "resnet18", "--pretrained", "yes", "--out", tmp_path / "run", env=environment)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert "cannot get the pretrained weights of 'resnet18'" in line
    assert "local file" in line
    assert time.monotonic() - began < 45
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_share_every_batch(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "squares.npz")
    out = tmp_path / "run"
    options = ["--epochs", "2", "--batch-size", "24", "--device", "cpu", "--devices", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "aib", "train", "--data", str(data), "--model", "vgg_xs_aib_qt", *options],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [4, 8]  # 96 images in batches of 24, not one epoch a process
    assert all((row["train"]["error"] * 96) % 1 == pytest.approx(0) for row in rows)  # counted over all 96 images, once each
    assert main(["eval", str(out)]) == 0
    assert main(["train", "--data", str(data), "--batch-size", "1", "--devices", "2", "--out", str(tmp_path / "odd")]) == 2
