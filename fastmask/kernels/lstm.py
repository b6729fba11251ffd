"""LSTM: the masked forward and backward block kernels.

    z = b + x_t W + h U                    gate blocks i f c o, one chain over [x ; h]
    i, f, o = ract(z_i, z_f, z_o)    g = act(z_c)
    c = f c + i g                    h = o act(c)

Equal to keras.layers.LSTM (Keras 3.15). Parallel: rows, by workers with several rows in flight (recurrent.py).
"""

from .cell import C_IN, C_OUT, CARRY, DH, H_GATES, H_IN, H_OUT, cell_backward, cell_tile
from .recurrent import recurrent_backward, recurrent_forward


def _forward(e, step, z, act, ract, fast):
    i, f, g, o = ract(z[0]), ract(z[1]), act(z[2]), ract(z[3])
    c = e.fma(f, step.load(C_IN), i * g)
    h = o * act(c)
    step.store(C_OUT, c)
    step.store(H_OUT, h)
    step.save([i, f, g, o] if fast else z)


def _backward(e, step, act, ract, fast):
    """In the forward pass h = o act(c), c = f c_in + i g; so now:"""
    kept = step.saved(4)
    (i, di), (f, df), (g, dg), (o, do) = ract(kept[0]), ract(kept[1]), act(kept[2]), ract(kept[3])
    a, da = act.at(step.load(C_OUT))
    dh = step.load(DH)
    dc = e.fma(dh * o, da, step.load(CARRY))
    step.store(CARRY, dc * f)
    step.save([dc * g * di, dc * step.load(C_IN) * df, dc * i * dg, dh * a * do])


_tile = cell_tile("lstm", 4, range(4), range(4), H_IN, _forward)
_step = cell_backward("lstm_backward", _backward)

lstm_forward = recurrent_forward(_tile, _tile, has_cell_state=True, two_passes=False, tile_panels=1)
lstm_backward = recurrent_backward(_step, _step, has_cell_state=True, two_passes=False)

_dropped = cell_tile("lstm_dropped", 4, range(4), range(4), H_GATES, _forward, dropped=True)
lstm_dropped_forward = recurrent_forward(
    _dropped, _dropped, has_cell_state=True, two_passes=False, tile_panels=1, gates=4
)
lstm_dropped_backward = recurrent_backward(_step, _step, has_cell_state=True, two_passes=False, gates=4)
