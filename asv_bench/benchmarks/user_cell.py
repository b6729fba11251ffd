"""A cell of one's own: the minGRU of docs/custom_cells.md, compiled and in Python, beside the built-in GRU."""

import functools
import importlib.util
import re
import tempfile
from pathlib import Path

import fastmask as fm
from fastmask.ops.user_cell import UserCell, user_cell, user_cell_backward, user_cell_forward, user_cell_pack

from . import common

PAGE = Path(__file__).parents[2] / "docs" / "custom_cells.md"
SIZES = [(1, 1, 32, 64), (32, 100, 64, 64), (32, 100, 64, 128)]


@functools.cache
def min_gru():
    """The cells of that page, as a module. It needs a file, since numba keeps compiled code beside it."""
    file = Path(tempfile.mkdtemp(prefix="fastmask-bench-"), "min_gru.py")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    file.write_text("\n".join(blocks[:2]))
    spec = importlib.util.spec_from_file_location("min_gru", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(name, units):
    return fm.layers.GRUCell(units) if name == "GRUCell" else getattr(min_gru(), name)(units)


class Cells:
    params = (["MinGRUCell", "PythonMinGRUCell", "GRUCell"], SIZES, common.THREADS)
    param_names = ("cell", "B,T,F,H", "threads")

    def setup(self, name, size, threads):
        fm.set_num_threads(threads)
        B, T, F, H = size
        self.x, self.mask = common.normal(B, T, F), common.mask(B, T)
        self.d_outputs = common.normal(B, T, H) * self.mask[..., None]
        self.layer = fm.layers.RNN(cell(name, H), return_sequences=True)
        self.time_call()
        self.time_backward()

    def time_call(self, *_):
        self.layer(self.x, mask=self.mask)

    def time_backward(self, *_):
        """A training call and its backward."""
        self.layer(self.x, mask=self.mask, training=True)
        self.layer.backward(self.d_outputs)


class Ops:
    params = (SIZES, common.DTYPES, common.ENDS, common.THREADS)
    param_names = common.RECURRENT_NAMES

    def setup(self, size, dtype, fill, threads):
        fm.set_num_threads(threads)
        B, T, F, H = size
        self.x, self.mask = common.normal(B, T, F, dtype=dtype), common.mask(B, T, fill)
        self.d_outputs = common.normal(B, T, H, dtype=dtype) * self.mask[..., None]
        self.weights = common.normal(F, 2 * H, dtype=dtype, scale=F**-0.5), common.normal(2 * H, dtype=dtype)
        self.cell = UserCell(min_gru().min_gru_step, min_gru().min_gru_step_backward, H, H, 2 * H)
        self.packed = user_cell_pack(self.weights)
        self.time_user_cell_backward()
        self.time_user_cell()

    def time_user_cell_pack(self, *_):
        user_cell_pack(self.weights)

    def time_user_cell(self, *_):
        user_cell(self.x, None, self.cell, mask=self.mask, packed=self.packed)

    def time_user_cell_forward(self, *_):
        return user_cell_forward(self.x, None, self.cell, mask=self.mask, packed=self.packed)

    def time_user_cell_backward(self, *_):
        """Forward and backward: a tape is good for one backward."""
        _, tape = self.time_user_cell_forward()
        user_cell_backward(tape, self.d_outputs)
