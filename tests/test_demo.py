"""python -m fastmask demo, its data set and its picture."""

import io
import re
import struct
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import fastmask as fm
from fastmask import cli
from fastmask.datasets.vowels import read_vowels

SMALL = ["demo", "--units", "5", "--epochs", "2"]


# --- the data set -----------------------------------------------------------------------------------------------------


def test_japanese_vowels():
    (x_train, y_train), (x_test, y_test) = fm.datasets.japanese_vowels()
    assert isinstance(x_train, fm.Ragged) and isinstance(x_test, fm.Ragged)
    assert (len(x_train), len(x_test)) == (270, 370)
    assert (x_train.values.shape, x_test.values.shape) == ((4274, 12), (5687, 12))
    assert x_train.values.dtype == x_test.values.dtype == np.float32
    assert (x_train.lengths.min(), x_train.lengths.max()) == (7, 26)
    assert (x_test.lengths.min(), x_test.lengths.max()) == (7, 29)
    np.testing.assert_array_equal(np.bincount(y_train), [30] * 9)
    np.testing.assert_array_equal(np.bincount(y_test), [31, 35, 88, 44, 29, 24, 40, 50, 29])
    # the first frame of the published file ae.train
    np.testing.assert_allclose(x_train[0][0][:3], [1.860936, -0.207383, 0.261557], atol=1e-6)


def arrays():
    """The arrays of a file with one utterance of two frames on each side."""
    part = {"values": np.zeros((2, 12), np.float32), "offsets": np.array([0, 2]), "labels": np.array([3])}
    return {f"{name}_{key}": value for name in ("train", "test") for key, value in part.items()}


def saved(contents):
    file = io.BytesIO()
    np.savez(file, **contents)
    file.seek(0)
    return file


def test_read_vowels_reads_what_is_right():
    (x, y), _ = read_vowels(saved(arrays()))
    assert x[0].shape == (2, 12) and y[0] == 3


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("train_values", np.zeros((2, 11), np.float32), "values: expected float32"),
        ("train_values", np.zeros((2, 12)), "values: expected float32"),
        ("test_values", np.full((2, 12), np.nan, np.float32), "values: expected finite"),
        ("train_offsets", np.array([0, 3]), "offsets"),
        ("train_offsets", np.array([0, 2, 1, 2]), "offsets"),
        ("test_labels", np.array([9]), "labels: expected speakers 0 to 8"),
        ("test_labels", np.array([-1]), "labels: expected speakers 0 to 8"),
        ("test_labels", np.array([1, 2]), "labels: expected int64"),
        ("test_labels", np.array([1.0]), "labels: expected int64"),
        ("train_values", np.array([object()]), "Object arrays|allow_pickle"),
    ],
)
def test_read_vowels_refuses_what_is_wrong(key, value, message):
    with pytest.raises(ValueError, match=message):
        read_vowels(saved(arrays() | {key: value}))


def test_read_vowels_refuses_damaged_files():
    contents = arrays()
    del contents["test_labels"]
    with pytest.raises(ValueError, match="missing"):
        read_vowels(saved(contents))
    whole = saved(arrays()).getvalue()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        with pytest.raises(ValueError):
            read_vowels(io.BytesIO(damaged))


# --- the demo ---------------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    assert cli.main([*SMALL, *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_demo_says_what_it_does(capsys, tmp_path, cell):
    pytest.importorskip("matplotlib", reason="without matplotlib the demo draws no picture")
    picture = tmp_path / "demo.png"
    lines = run(capsys, "--cell", cell, "--out", picture)
    text = "\n".join(lines)
    assert "270 training utterances, 4274 frames" in text and "370 test utterances, 5687 frames" in text
    assert re.search(r"training: 2 epochs in [\d.]+ s, [\d,]+ valid steps/s", text)
    difference = re.search(r"NumPy reference [\d.]+ ms \([\d.]+ times as long\), largest difference (\S+)$", text, re.M)
    assert float(difference[1]) < 1e-5
    assert re.fullmatch(r"test accuracy [01]\.\d{4}", lines[-1])
    width, height = png_size(picture)
    assert width > 1000 and height > 300


def test_demo_runs_without_matplotlib(capsys, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    lines = run(capsys, "--out", tmp_path / "demo.png")
    assert any("matplotlib is not installed" in line for line in lines)
    assert lines[-1].startswith("test accuracy ")
    assert not (tmp_path / "demo.png").exists()


def test_same_seed_gives_the_same_answers(capsys, tmp_path):
    (x_train, y_train), (x_test, _) = fm.datasets.japanese_vowels()
    x_train, x_test = cli.standardise(x_train, x_test)

    def predictions(seed):
        options = cli.parse([*SMALL, "--seed", str(seed)])
        fm.set_random_seed(options.seed)
        model = cli.build_model(options)
        model.fit(x_train, y_train, batch_size=cli.BATCH_SIZE, epochs=1, verbose=0)
        return model.predict(x_test)

    first = predictions(1)
    np.testing.assert_array_equal(first, predictions(1))
    assert not np.array_equal(first, predictions(2))


def test_standardise_uses_the_training_set_alone():
    (x_train, _), (x_test, _) = fm.datasets.japanese_vowels()
    train, test = cli.standardise(x_train, x_test)
    np.testing.assert_allclose(train.values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.values.std(axis=0), 1, atol=1e-5)
    mean, deviation = x_train.values.mean(axis=0), x_train.values.std(axis=0)
    np.testing.assert_allclose(test.values, (x_test.values - mean) / deviation, rtol=1e-5, atol=1e-6)
    assert test.values.dtype == np.float32


def test_folds_are_stratified():
    labels = np.repeat(np.arange(9), 30)
    folds = cli.stratified_folds(labels, 5, seed=0)
    counts = np.zeros((5, 9), dtype=int)
    np.add.at(counts, (folds, labels), 1)
    np.testing.assert_array_equal(counts, np.full((5, 9), 6))


def test_cross_validation_leaves_the_test_set_alone(capsys, monkeypatch):
    train, _ = fm.datasets.japanese_vowels()
    monkeypatch.setattr(fm.datasets, "japanese_vowels", lambda: (train, None))
    lines = run(capsys, "--folds", 3)
    assert sum(line.startswith("fold ") for line in lines) == 3
    assert re.fullmatch(r" +2  0\.\d{4}    \d+\.\d{4}", lines[-1])


@pytest.mark.parametrize("argument", ["--units=0", "--epochs=-1", "--epochs=2.5", "--cell=rnn", "--seed=x", "--what"])
def test_bad_arguments_are_refused(argument, capsys):
    with pytest.raises(SystemExit) as refusal:
        cli.main(["demo", argument])
    assert refusal.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err


def test_module_runs_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "fastmask", *SMALL, "--out", str(tmp_path / "demo.png")]
    home = Path(fm.__file__).parents[1]  # the process finds the package that is tested here, installed or not
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=home)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"test accuracy [01]\.\d{4}", done.stdout.splitlines()[-1])


def test_median_accuracy_of_five_seeds(capsys, tmp_path):
    accuracies = []
    for seed in range(5):
        assert cli.main(["demo", "--seed", str(seed), "--out", str(tmp_path / "demo.png")]) == 0
        accuracies.append(float(capsys.readouterr().out.split()[-1]))
    assert median(accuracies) >= 0.965, accuracies
