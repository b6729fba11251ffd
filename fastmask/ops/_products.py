"""Matrix products as jobs (kernels/gemm.py): the bulk products of a backward pass, and a product for every row of a
batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastmask.kernels import _jit
from fastmask.ops._common import Workspace, aligned_zeros
from fastmask.ops._packing import lanes

# ----------------------------------------------------------------------------------------------------------------------
# Bulk products

PRODUCT_ROWS = 8 * _jit.TILE_ROWS


def product(dtype, a, a_stride, outer, inner, jump, weights, columns, c, c_index, rows, init=None):
    """Job: c[c_index[n]] = init + a[n] · weights."""
    vectors = -(-columns // lanes(dtype))
    if init is None:
        init = _zeros(vectors * lanes(dtype), dtype)
    return _jit.get("gemm", "product", dtype).job(
        -(-rows // PRODUCT_ROWS), rows * columns * outer * inner, a=a, a_stride=a_stride, outer=outer, inner=inner,
        jump=jump, init=init, weights=weights, vectors=vectors, columns=columns, c=c, c_index=c_index, c_stride=columns
        * dtype.itemsize, rows=rows,
    )  # fmt: skip


@lru_cache(64)
def _zeros(n, dtype):
    """Only to be read."""
    return aligned_zeros((n,), dtype)


def plain_columns(K, L):
    """Columns of `weight_gradient` for vectors side by side."""
    first = np.arange(0, K, L)
    return np.stack([first, np.minimum(K - first, L)], axis=-1)


def weight_gradient(out, columns, a, index, b, b_stride, panel_stride, v_stride, vectors, per_panel, steps, workspace):
    """Job: out[k, columns of v] = sum over n of a[index[n]][k] · b[panel][n][v]. None if there is nothing to do.

    out : (depth, ...) contiguous; a has the same depth, and maybe a little more
    columns : (vectors, 2), where a vector begins in a row of out and how many of its elements there are
    workspace : to be released after the job is done
    """
    dtype, depth = a.dtype, len(out)
    if not depth:
        return None
    L = lanes(dtype)
    panels = -(-vectors // per_panel)
    parts = max(1, min(-(-8 // panels), -(-depth // (2 * _jit.TILE_ROWS))))
    k_step = -(-depth // parts)
    k_step += -k_step % _jit.TILE_ROWS
    k_blocks = max(1, -(-depth // k_step))
    return _jit.get("gemm", "weight_gradient", dtype).job(
        panels * k_blocks, steps * depth * vectors * L, a=a, index=index, a_stride=a.shape[-1] * dtype.itemsize,
        depth=depth, b=b, b_stride=b_stride, panel_stride=panel_stride, v_stride=v_stride, vectors=vectors,
        per_panel=per_panel, steps=steps, sums=workspace.array((panels, depth, per_panel, L), dtype), out=out,
        out_stride=out.strides[0], columns=columns, k_step=k_step, k_blocks=k_blocks,
    )  # fmt: skip


def column_sums(out, columns, b, b_stride, panel_stride, v_stride, blocks, per_panel, steps):
    """Job: sums over n of b[block][n][v], `columns` (blocks, per_panel, 3) says where each goes: the place in out, the
    number of elements, and a second place or -1.
    """
    return _jit.get("gemm", "column_sums", b.dtype).job(
        blocks, steps * out.size, b=b, b_stride=b_stride, panel_stride=panel_stride, v_stride=v_stride,
        per_panel=per_panel, steps=steps, out=out, columns=columns,
    )  # fmt: skip


def plain_sums(K, L):
    """Columns of `column_sums` for vectors side by side."""
    columns = np.full((-(-K // L), 3), -1)
    columns[:, :2] = plain_columns(K, L)
    return columns


# ----------------------------------------------------------------------------------------------------------------------
# A product for every row

PIECE = 2 * PRODUCT_ROWS  # most rows of one block
PACK_WORK = 40  # the work of packing an element, in multiply-adds


class Stack(NamedTuple):
    """A matrix for every row of a batch, all in one buffer. Counted in elements: (B,) each, or one number for all."""

    buffer: np.ndarray
    start: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    row_stride: np.ndarray
    column_stride: np.ndarray

    @property
    def T(self):
        return Stack(self.buffer, self.start, self.columns, self.rows, self.column_stride, self.row_stride)

    def bytes(self):
        """(addresses of the first elements, bytes from row to row, bytes from column to column)."""
        size = self.buffer.itemsize
        return _jit.address(self.buffer) + self.start * size, self.row_stride * size, self.column_stride * size


def stack_of_steps(values, first):
    """Steps (N,F) as a matrix (n,F) for every row of the batch; the steps of row b begin at first[b]."""
    F = values.shape[1]
    return Stack(values, first[:-1] * F, np.diff(first), F, F, 1)


def multiply_rows(a, b):
    """(B,I,K), (B,K,J) -> (B,I,J): a matrix product for each row of the batch; a and b may lie in any order."""
    out = np.zeros((len(a), a.shape[1], b.shape[2]), a.dtype)
    if out.size and a.shape[2]:
        multiply(_stack_of(a), _stack_of(b), _stack_of(out))
    return out


def _stack_of(matrices):
    """An array (B,rows,columns) as a Stack."""
    rows, *strides = (stride // matrices.itemsize for stride in matrices.strides)
    return Stack(matrices, rows * np.arange(len(matrices)), *matrices.shape[1:], *strides)


def multiply(a, b, out, kernel=("gemm", "products"), **arguments):
    """out = a b, Stacks whose matrices fit; the columns of out lie side by side.

    kernel, arguments: another kernel that makes an element of out of a row of a and a column of b; see `run_products`.
    """
    workspace = Workspace()
    weights, packed = _packed(b, workspace)
    start, row, column = a.bytes()
    runs = np.not_equal(a.column_stride, 1)  # a row is runs of one element each, a column apart
    out_start, out_row, _ = out.bytes()
    run_products(
        out.buffer.dtype, kernel, jobs=len(start), a=start, a_stride=row, outer=np.where(runs, a.columns, 1),
        inner=np.where(runs, 1, a.columns), jump=column, weights=weights, columns=out.columns, c=out_start,
        c_stride=out_row, rows=out.rows, **arguments,
    )  # fmt: skip
    del packed  # which holds what `weights` points to
    workspace.release()


def _packed(matrices, workspace):
    """(addresses of the packed matrices of a Stack, the array they lie in)."""
    dtype = matrices.buffer.dtype
    L = lanes(dtype)
    start, row, column = matrices.bytes()
    jobs = table(len(start), start, matrices.rows, matrices.columns, row, column, 0)
    sizes = jobs[:, 1] * (-(-jobs[:, 2] // L) * L)
    packed = workspace.array((int(sizes.sum()),), dtype)
    jobs[:, 5] = _jit.address(packed) + (np.cumsum(sizes) - sizes) * dtype.itemsize
    _jit.get("gemm", "pack_matrices", dtype).run(len(jobs), PACK_WORK * packed.size, jobs=jobs)
    return jobs[:, 5], packed


def run_products(
    dtype, kernel=("gemm", "products"), *, jobs, a, a_stride, outer, inner, jump, weights, columns, c, c_stride, rows,
    **arguments,
):  # fmt: skip
    """c = init + a · weights for each of many jobs: the words of kernels/gemm.py:products, addresses among them,
    (jobs,) each or one number for all.

    kernel: (module, name) of another kernel that takes the same jobs; arguments: what it takes beside them, for
    `products` init, 0 by default.
    """
    if kernel == ("gemm", "products") and not arguments:
        L = lanes(dtype)
        arguments = {"init": aligned_zeros((-(-int(np.max(columns, initial=0)) // L) * L,), dtype)}
    whole = table(jobs, a, a_stride, outer, inner, jump, weights, columns, c, c_stride, rows)
    work = int(np.sum(whole[:, 2] * whole[:, 3] * whole[:, 6] * whole[:, 9]))
    job, before, rows = cut_rows(whole[:, 9])
    jobs = whole[job]
    jobs[:, 0] += before * jobs[:, 1]
    jobs[:, 7] += before * jobs[:, 8]
    jobs[:, 9] = rows
    _jit.get(*kernel, dtype).run(len(jobs), work, jobs=jobs, **arguments)


def cut_rows(rows):
    """Jobs of `rows` (jobs,) rows in pieces, for the threads to share: (job, rows of it before, rows) of each piece."""
    pieces = -(-rows // PIECE)
    job = np.repeat(np.arange(len(rows)), pieces)
    before = PIECE * (np.arange(len(job)) - (np.cumsum(pieces) - pieces)[job])
    return job, before, np.minimum(rows[job] - before, PIECE)


def table(jobs, *words):
    """(jobs, words) int64, of words (jobs,) each or one number for all."""
    out = np.empty((jobs, len(words)), np.int64)
    for i, word in enumerate(words):
        out[:, i] = word
    return out
