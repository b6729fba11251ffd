"""SimpleRNN: the masked forward and backward block kernels.

    h = act(x_t W + b + h U)

Equal to keras.layers.SimpleRNN (Keras 3.15). Parallel: rows, by workers with several rows in flight (recurrent.py).
"""

from .cell import CARRY, DH, H_GATES, H_IN, H_OUT, cell_backward, cell_tile
from .recurrent import recurrent_backward, recurrent_forward


def _forward(e, step, acc, act, ract, fast):
    h = act(acc[0])
    step.store(H_OUT, h)
    step.save([h] if fast else acc)


def _backward(e, step, act, ract, fast):
    _, dh = act(step.saved(1)[0])
    step.store(CARRY, e.const(0.0))
    step.save([step.load(DH) * dh])


_tile = cell_tile("simple_rnn", 1, (0,), (0,), H_IN, _forward)
_step = cell_backward("simple_rnn_backward", _backward)
simple_rnn_forward = recurrent_forward(_tile, _tile, has_cell_state=False, two_passes=False, tile_panels=4)
simple_rnn_backward = recurrent_backward(_step, _step, has_cell_state=False, two_passes=False)

_dropped = cell_tile("simple_rnn_dropped", 1, (0,), (0,), H_GATES, _forward, dropped=True)
simple_rnn_dropped_forward = recurrent_forward(
    _dropped, _dropped, has_cell_state=False, two_passes=False, tile_panels=4, gates=1
)
simple_rnn_dropped_backward = recurrent_backward(_step, _step, has_cell_state=False, two_passes=False, gates=1)
