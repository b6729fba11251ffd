"""No index is computed in 32 bits: kernels find what lies behind 2^32 steps, rows, elements or blocks.

An op runs as ever, and its launches are recorded. Then each is repeated with all indices of one kind raised by FAR, and
what they index moved by as much to the front, so that every address comes out the same. (The arrays then begin where
there is no memory: nothing may be read but what is indexed.) The results must be the same bits.
"""

import ctypes

import numpy as np
import pytest

import fastmask as fm
from cases import CELLS, Problem, assert_same_bits
from fastmask.kernels import _jit, activation, embedding, loss_names, mask, normalization
from fastmask.kernels._threads import EXC, RET
from fastmask.ops import normalization as normalization_ops
from fastmask.ops import pool as pool_ops
from fastmask.ops._packing import lanes
from fastmask.ops._products import PRODUCT_ROWS
from fastmask.ops.activation import activation_backward, activation_forward, softmax_backward, softmax_forward
from fastmask.ops.attention import attention_backward, attention_forward
from fastmask.ops.embedding import embedding_backward, embedding_forward
from fastmask.ops.gemm import dense_backward, dense_forward
from fastmask.ops.loss import loss_value_and_grad
from fastmask.ops.mask import SMALL, from_values, zero_masked

FAR = 2**32 + 7


class Launch:
    """A recorded launch: its arguments before, its arrays afterwards."""

    def __init__(self, kernel, blocks, work, arguments):
        self.kernel, self.name, self.blocks = kernel, kernel.name.rpartition(".")[0], blocks
        self.given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        kernel_run(kernel, blocks, work, **arguments)
        self.found = {k: v.copy() for k, v in arguments.items() if isinstance(v, np.ndarray)}

    def size(self, name):
        """A whole number among the arguments; "item" is the bytes of a real, "state" those of a padded state."""
        item = np.dtype(self.kernel.dtype).itemsize
        if name == "item":
            return item
        if name == "state":
            return self.given["panels"] * lanes(np.dtype(self.kernel.dtype)) * item
        return self.given[name]

    def again(self, raised, moved, counts=None, first_block=0):
        """Run once more; the arrays that this leaves.

        raised: names of arrays of indices, whose elements get FAR added. moved: name -> bytes that it is moved to the
        front by, what is there. counts: name -> by how much a number is larger.
        """
        arrays = {k: v.copy() for k, v in self.given.items() if isinstance(v, np.ndarray)}
        words = {k: arrays.get(k, v) for k, v in self.given.items()}
        for name in raised:
            if arrays.get(name) is not None:
                arrays[name] += FAR
        for name, distance in moved.items():
            if arrays.get(name) is not None:
                words[name] = _jit.address(arrays[name]) - distance
        for name, more in (counts or {}).items():
            words[name] += more
        packed = self.kernel.pack(**words)
        packed[self.kernel.counter] = first_block
        args = ctypes.addressof(packed)
        _, drain = _jit._load_drain()
        drain(RET, EXC, self.kernel.address, args, args + 8 * self.kernel.counter, first_block + self.blocks)
        return arrays


kernel_run = _jit.Kernel.run


@pytest.fixture
def launches(monkeypatch):
    """The launches of everything that runs in the test."""
    found = []

    def run(kernel, blocks, work, **arguments):
        found.append(Launch(kernel, blocks, work, arguments))

    def together(self):
        for job in self.jobs:
            run(job.kernel, job.blocks, job.work, **job.kept)

    monkeypatch.setattr(_jit.Kernel, "run", run)
    monkeypatch.setattr(_jit.Job, "run", lambda job: run(job.kernel, job.blocks, job.work, **job.kept))

    def point(job, places, arrays):
        job.bind(**{job.kernel.names[place]: a for place, a in zip(places, arrays, strict=True)})

    monkeypatch.setattr(_jit.Job, "point", point)
    monkeypatch.setattr(_jit.Together, "run", together)
    monkeypatch.setattr(_jit, "_threads", 1)
    return found


def of(launches, name):
    (launch,) = [launch for launch in launches if launch.name == name][:1]
    assert launch.blocks
    return launch


def check(launch, raised=(), moved=None, counts=None, first_block=0):
    found = launch.again(raised, moved or {}, counts, first_block)
    for name in set(raised) & found.keys():
        found[name] -= FAR
    assert_same_bits(found, launch.found, launch.name)


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def holes(*shape):
    return np.random.default_rng(shape).random(shape) < 0.6


# ---- recurrent: the number of a step, its position, the number of a row ---------------------------------------------
@pytest.mark.parametrize("cell", CELLS)
def test_steps_of_recurrent_kernels(cell, launches):
    """H within one vector: gates of further ones lie where the number of steps says."""
    problem = Problem(cell, B=3, T=6, F=3, H=3, dtype=np.float32)
    problem.train(mask=holes(3, 6), initial_state=problem.states)
    kernels = [launch for launch in launches if launch.name.endswith(("_forward", "_backward"))]
    assert len(kernels) == 2
    for launch in kernels:
        row, state, steps = launch.size("H") * 4, launch.size("state"), launch.size("steps")
        ws_step = launch.size("ws_jump") // (steps + 1)
        moved = dict(src=8, dst=8, x=12, x_kept=12, outputs=row, d_outputs=row, hs=state, cs=state, ws=ws_step)
        moved = {name: FAR * stride for name, stride in moved.items()}
        check(launch, ["first", "src", "dst", "base"], moved, {"steps": FAR, "ws_jump": FAR * ws_step})


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_recurrent_kernels(cell, launches):
    problem = Problem(cell, B=3, T=6, F=3, H=17, dtype=np.float32)
    problem.infer(mask=holes(3, 6), initial_state=problem.states, return_sequences=False)
    launch = next(launch for launch in launches if launch.name.endswith("_forward"))
    moved = {name: FAR * launch.size("H") * 4 for name in ("h0", "c0", "last", "final_h", "final_c")}
    check(launch, ["order"], {"first": FAR * 8, "base": FAR * 8, **moved})


def test_positions_of_a_mask(launches):
    fm.simple_rnn(normal(3, 6, 2), normal(2, 4), normal(4, 4), mask=holes(3, 6))
    launch = of(launches, "schedule.resolve")
    n = launch.found["first"][-1]
    found = launch.again(["base"], {"mask": FAR})
    for name in ("src", "dst"):
        np.testing.assert_array_equal(found[name][:n] - FAR, launch.found[name][:n])
    assert_same_bits({k: found[k] for k in ("first", "order")}, {k: launch.found[k] for k in ("first", "order")})


# ---- products -------------------------------------------------------------------------------------------------------
def test_products(launches):
    x = normal(100, 5)
    y, tape = dense_forward(x, normal(5, 33), normal(33))
    dense_backward(tape, normal(100, 33))
    for launch in [launch for launch in launches if launch.name == "gemm.product"]:
        before = FAR * PRODUCT_ROWS
        moved = {"a": before * launch.size("a_stride")}
        if launch.given["c_index"] is None:
            moved["c"] = before * launch.size("c_stride")
        else:
            moved["c_index"] = before * 8
        check(launch, moved=moved, counts={"rows": before}, first_block=FAR)
    gradient = of(launches, "gemm.weight_gradient")
    check(gradient, ["index"], {"a": FAR * gradient.size("a_stride")})


def test_products_laid_out_by_a_list(launches):
    problem = Problem("gru", B=3, T=6, F=3, H=17, dtype=np.float32)
    problem.train(mask=holes(3, 6))
    launch = of(launches, "gemm.product")
    check(launch, ["c_index"], {"c": FAR * launch.size("c_stride")})


# ---- element by element, row by row ---------------------------------------------------------------------------------
def test_activations(launches):
    x, dy = normal(3, activation.BLOCK - 7), normal(3, activation.BLOCK - 7)
    activation_backward(x, activation_forward(x, "gelu"), dy, "gelu")
    assert len(launches) == 2
    for launch in launches:
        before = FAR * activation.BLOCK
        check(launch, moved=dict.fromkeys(("x", "y", "dy", "dx"), before * 4), counts={"size": before}, first_block=FAR)


def test_softmax(launches):
    x, dy = normal(5, 33), normal(5, 33)
    activation_backward(x, activation_forward(x, "softmax"), dy, "softmax")
    assert len(launches) == 2
    for launch in launches:
        before = FAR * launch.size("many")
        moved = dict.fromkeys(("x", "y", "dy", "dx"), before * 33 * 4)
        check(launch, moved=moved, counts={"rows": before}, first_block=FAR)


@pytest.mark.parametrize("features", [1, 5])
def test_softmax_over_steps(features, launches):
    x, dy, valid = normal(3, 7, features), normal(3, 7, features), holes(3, 7)
    softmax_backward(softmax_forward(x, 1, valid), dy, 1, valid)
    assert len(launches) == 2
    for launch in launches:
        moved = dict.fromkeys(("x", "y", "dy", "dx"), FAR * features * 4)
        check(launch, ["base"], {**moved, "mask": FAR})
        check(launch, moved={"base": FAR * 8}, first_block=FAR)


def test_masks(launches):
    steps = SMALL // 5 + 600
    x = normal(1, steps, 5) * holes(1, steps, 1)
    from_values(x), zero_masked(x, holes(1, steps))
    assert len(launches) == 2
    for launch in launches:
        before = FAR * mask.BLOCK
        moved = {"x": before * 20, "y": before * 20, "mask": before}
        check(launch, moved=moved, counts={"steps": before}, first_block=FAR)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_pools(kind, launches):
    _, tape = getattr(pool_ops, f"{kind}_pool_forward")(normal(4, 9, 33), mask=holes(4, 9))
    getattr(pool_ops, f"{kind}_pool_backward")(tape, normal(4, 33))
    kernels = [launch for launch in launches if launch.name.startswith("pool.")]
    assert len(kernels) == 2
    for launch in kernels:
        row = FAR * 33 * 4
        check(launch, ["src"], {"x": row, "dx": row})
        check(launch, moved={"first": FAR * 8, "y": row, "dy": row}, first_block=FAR)


def test_embedding(launches):
    y, tape = embedding_forward(np.arange(50).reshape(5, 10) % 40, normal(40, 9))
    embedding_backward(tape, normal(5, 10, 9))
    launch = of(launches, "embedding.row_sums")
    check(launch, ["steps"], {"dy": FAR * 9 * 4})
    before = FAR * embedding.BLOCK
    check(launch, moved={"first": before * 8, "sums": before * 36}, counts={"rows": before}, first_block=FAR)


@pytest.mark.parametrize("kind", ["layer", "unit", "batch"])
def test_normalization(kind, launches):
    x, dy, options = normal(3, 50, 9), normal(3, 50, 9), {"mask": holes(3, 50)} if kind == "batch" else {}
    _, tape = getattr(normalization_ops, f"{kind}_normalization_forward")(x, **options)
    getattr(normalization_ops, f"{kind}_normalization_backward")(tape, dy)
    assert len(launches) >= 2
    steps = {"x": 36, "y": 36, "dx": 36, "dy": 36, "moments": 8, "inverse": 4 if kind == "unit" else 0}  # bytes of one
    before = FAR * normalization.CHUNK
    for launch in launches:
        if not launch.name.startswith("normalization."):
            continue
        if launch.given.get("listed") is None:
            moved = {name: before * stride for name, stride in steps.items()}
        else:
            check(launch, ["listed"], {name: FAR * stride for name, stride in steps.items()})
            moved = {"listed": before * 8}
        pieces = dict.fromkeys(("d_gamma", "d_beta", "means", "squares"), FAR * 36)
        check(launch, moved={**pieces, **moved}, counts={"count": before}, first_block=FAR)


@pytest.mark.parametrize("units", [3, 70])
@pytest.mark.parametrize("kind", ["mean_squared_error", "sparse_categorical_crossentropy"])
def test_losses(kind, units, launches):
    sparse = kind.startswith("sparse")
    y = np.arange(60).reshape(4, 15) % units if sparse else normal(4, 15, units)
    loss_value_and_grad(kind, y, np.abs(normal(4, 15, units)), mask=holes(4, 15))
    (launch,) = launches
    row = FAR * units * 4
    check(launch, ["rows"], {"y_true": FAR * 8 if sparse else row, "y_pred": row, "d_pred": row})
    before = FAR * loss_names.BLOCK
    moved = {"rows": before * 8, "weight": before * 4, "values": before * 4}
    check(launch, moved=moved, counts={"count": before}, first_block=FAR)


def test_attention(launches):
    query, value = normal(3, 7, 5), normal(3, 6, 5)
    y, tape = attention_forward(query, value, value_mask=holes(3, 6))
    attention_backward(tape, normal(*y.shape))
    kernels = [launch for launch in launches if launch.name.startswith("attention.softmax")]
    assert len(kernels) == 2
    for launch in kernels:
        check(launch, ["start"], dict.fromkeys(("scores", "p", "dp"), FAR * 4))
        before = FAR * launch.size("many")
        moved = dict.fromkeys(("start", "size", "seen"), before * 8)
        check(launch, moved=moved, counts={"queries": before}, first_block=FAR)


# ---- the parts of a vector ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [3, 2**31 + 3, 2**32, 2**32 + 3, -1])
def test_the_rest_of_an_array_may_be_longer_than_an_int(count):
    """A vector is whole however many elements follow it."""
    from numba import types

    from fastmask.kernels.simd import load_part, store_part, unpack

    def copy(block, args, real):
        x, y, count = unpack(args, 3)
        store_part(y, load_part(real, x, count), count)

    symbol, ir_text = _jit._emit(copy, (types.int64, types.int64, types.NumberClass(types.float32)))
    address = _jit._link(symbol, _jit._object_code(ir_text))
    x, y = np.arange(1, 17, dtype=np.float32), np.zeros(16, np.float32)
    n = max(0, min(count, _jit.LANES))
    arguments = (ctypes.c_int64 * 5)(_jit.address(x), _jit.address(y), count, 0)
    _, drain = _jit._load_drain()
    at = ctypes.addressof(arguments)
    drain(RET, EXC, address, at, at + 24, 1)
    np.testing.assert_array_equal(y, np.where(np.arange(16) < n, x, 0))
