"""Files of models: random damage behind good checksums, and processes that are killed while they save.

`pytest --long` tries fifty times as many damaged files.
"""

import io
import json
import os
import random
import sys
import tracemalloc
import zipfile

import pytest

from fresh import run

# ---- damage ---------------------------------------------------------------------------------------------------------
# Values that stand where others are expected.
ODD = [None, True, False, -1, 0, 1, 3, 2**31, 10**12, 10**30, 0.5, 1e308, -1e-300, float("nan"), float("inf")]
ODD += ["", "GRU", "float64", "int8", "os.system", "__init__", "../../x", "\0", "x" * 3000]
ODD += [[], {}, [[]], [None] * 9, {"layer": 0}, {"array": 10**9}, {"class_name": "GRU", "config": {}}]
# What a file has no business with.
FORBIDDEN = ("pickle.", "os.", "shutil.", "subprocess.", "socket.", "ctypes.dlopen", "tempfile.")


def nodes(tree, found=None):
    """All (list or dict, index or key) there are."""
    found = [] if found is None else found
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], (dict, list)):
            nodes(tree[key], found)
    return found


def damaged_text(text):
    """The JSON with one to three nodes gone, there twice, or of another value: an odd one, or that of another node."""
    tree = json.loads(text)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        there = nodes(tree)
        parent, key = random.choice(there)
        kind = random.random()
        if kind < 0.15:
            del parent[key]
        elif kind < 0.25 and isinstance(parent, list):
            parent.insert(key, json.loads(json.dumps(parent[key])))
        elif kind < 0.5:
            other, at = random.choice(there)
            parent[key] = json.loads(json.dumps(other[at]))
        elif kind < 0.6 and isinstance(parent[key], str):
            at = random.randrange(len(parent[key]) + 1)
            parent[key] = parent[key][:at] + random.choice(("", "\0", "7", "é", ">")) + parent[key][at + 1 :]
        else:
            parent[key] = random.choice(ODD)
    return json.dumps(tree).encode()


def damaged_array(data):
    """A byte of the header, of a number, or the length changed."""
    at = random.randrange(len(data) if random.random() < 0.3 else min(len(data), 128))
    if random.random() < 0.2:
        return data[:at]
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def damaged(whole):
    """The bytes of another file, all of whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = "fastmask.json" if random.random() < 0.8 else random.choice([*members])
    members[name] = damaged_text(members[name]) if name.endswith("json") else damaged_array(members[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def damaged_directory(whole):
    """With some bytes changed near the end, where the zip format says without any checksum what lies where."""
    data = bytearray(whole)
    for _ in range(random.choice((1, 2, 4))):
        data[-random.randrange(1, min(len(data), 1500))] = random.choice((0, 1, 0x7F, 0xFF, random.randrange(256)))
    return bytes(data)


def load_damaged(folder, files):
    """Print [how many loaded, how many were refused, what was wrong] of so many damaged files of each model."""
    import test_saving as saving
    from fastmask import load_model

    happened = []
    sys.addaudithook(lambda event, args: happened.append(event) if event.startswith(FORBIDDEN) else None)
    random.seed(0)
    loaded, refused, wrong = 0, 0, []
    path = os.path.join(folder, "m.npz")
    for make in saving.MODELS:
        model = make()
        if make is saving.classifier:
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            saving.train(model, 1)
        model.save(path)
        with open(path, "rb") as file:
            whole = file.read()
        tracemalloc.start()
        for i in range(files):
            with open(path, "wb") as file:
                file.write(damaged(whole) if i % 4 else damaged_directory(whole))
            happened.clear(), tracemalloc.reset_peak()
            before, problem = tracemalloc.get_traced_memory()[0], None
            try:
                load_model(path)
                loaded += 1
            except ValueError as error:
                refused += 1
                if not str(error).startswith(f"{path}: cannot be loaded: "):
                    problem = repr(error)
            except BaseException as error:
                problem = repr(error)
            taken = tracemalloc.get_traced_memory()[1] - before
            if problem or happened or taken > 2e7:
                wrong.append([make.__name__, i, problem, happened[:], taken])
        tracemalloc.stop()
    print(json.dumps([loaded, refused, wrong]))


def test_random_damage_is_refused_or_harmless(tmp_path, request):
    """A ValueError that names the file, or a model; little memory, and nothing is executed, opened or written."""
    files = 2000 if request.config.getoption("--long") else 40
    code = f"import test_saving_fuzz as t; t.load_damaged({str(tmp_path)!r}, {files})"
    loaded, refused, wrong = run(code, timeout=60 + files)
    assert wrong == []
    assert refused > files and loaded > files / 10, (loaded, refused)


# ---- kill -9 --------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this platform")
def test_killed_at_any_moment_of_saving(tmp_path):
    """Children save one model and another in turns until they are killed: one of the two is there, whole."""
    code = f"""
    import glob, json, os, random, signal, time, fresh
    import fastmask as fm

    def digest(model):
        return fresh.digest(model.get_weights())

    def save_in_turns():
        while True:
            for model in models:
                model.save(path)

    random.seed(0)
    path = {str(tmp_path / "m.npz")!r}
    models = [fm.Sequential([fm.Input((None, 4)), fm.layers.LSTM(units), fm.layers.Dense(3)]) for units in (50, 90)]
    for model in models:
        model.compile("adam", "mse")
    want = {{digest(model): 0 for model in models}}
    models[0].save(path)
    torn, halves = 0, 0
    for _ in range(40):
        pid = fresh.child(save_in_turns)
        time.sleep(random.uniform(0.005, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert fresh.ended(pid) == -signal.SIGKILL
        try:
            want[digest(fm.load_model(path))] += 1
        except (ValueError, KeyError, OSError):
            torn += 1
        for half in glob.glob(os.path.join({str(tmp_path)!r}, ".fastmask-*.tmp")):
            halves += 1
            os.remove(half)
    print(json.dumps([torn, halves, sorted(want.values()), os.listdir({str(tmp_path)!r})]))
    """
    torn, halves, whole, there = run(code)
    assert torn == 0
    assert halves > 0, "none was killed while it wrote: this shows nothing"
    assert min(whole) > 0 and there == ["m.npz"]
