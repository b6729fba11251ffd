"""GRU: the masked forward and backward block kernels, both forms (gate blocks z r h).

    reset_after:      z = ract(x W_z + b_z + h U_z + c_z)     r = ract(x W_r + b_r + h U_r + c_r)
                      g = act(x W_h + b_h + r (h U_h + c_h))       4 accumulators: z, r, x-part, h-part
    reset before:     g = act(x W_h + b_h + (r h) U_h)             a second pass a step, over [x ; r h]
    both:             h = z h + (1 - z) g                          z multiplies the OLD state

Equal to keras.layers.GRU (Keras 3.15) and, with reset_after, torch.nn.GRU. What training keeps is ordered g, z, r,
(h-part): so the gradients that meet W (g, z, r) and those that meet U (z, r, h-part) are each contiguous. Parallel:
rows, by workers with several rows in flight (recurrent.py).
"""

from .cell import CARRY, DH, DRH, H_GATES, H_IN, H_OUT, RH, Z, cell_backward, cell_tile
from .recurrent import recurrent_backward, recurrent_forward


def _forward(e, step, acc, act, ract, fast):
    z, r, hr = ract(acc[0]), ract(acc[1]), acc[3]
    z_g = e.fma(r, hr, acc[2])
    g = act(z_g)
    step.store(H_OUT, e.fma(z, step.load(H_IN) - g, g))
    step.save([g, z, r, hr] if fast else [z_g, acc[0], acc[1], hr])


def _backward(e, step, act, ract, fast):
    """In the forward pass h = z h_in + (1 - z) g, g = act(x-part + r hr); so now:"""
    kept = step.saved(4)
    (g, dg), (z, dz), (r, dr), hr = act(kept[0]), ract(kept[1]), ract(kept[2]), kept[3]
    dh = step.load(DH)
    d_g = dh * (1.0 - z) * dg
    step.store(CARRY, dh * z)
    step.save([d_g, dh * (step.load(H_IN) - g) * dz, d_g * hr * dr, d_g * r])


def _gates_forward(e, step, acc, act, ract, fast):
    """First pass of the reset-before form: z, r and r h."""
    z, r = ract(acc[0]), ract(acc[1])
    step.store(Z, z)
    step.store(RH, r * step.load(H_IN))
    step.save([None, z, r] if fast else [None, *acc])


def _candidate_forward(e, step, acc, act, ract, fast):
    """Second pass: g and the new state."""
    g = act(acc[0])
    step.store(H_OUT, e.fma(step.load(Z), step.load(H_IN) - g, g))
    step.save([g] if fast else acc)


def _candidate_backward(e, step, act, ract, fast):
    kept = step.saved(2)
    (g, dg), (z, dz) = act(kept[0]), ract(kept[1])
    dh = step.load(DH)
    step.store(CARRY, dh * z)
    step.save([dh * (1.0 - z) * dg, dh * (step.load(H_IN) - g) * dz])


def _gates_backward(e, step, act, ract, fast):
    """d(r h) = d_g U_h^T has arrived in DRH."""
    r, dr = ract(step.saved(3)[2])
    drh = step.load(DRH)
    step.store(CARRY, e.fma(drh, r, step.load(CARRY)))
    step.save([None, None, drh * step.load(H_IN) * dr])


_tile = cell_tile("gru", 4, (0, 1, 2), (0, 1, 3), H_IN, _forward)
_step = cell_backward("gru_backward", _backward)
gru_forward = recurrent_forward(_tile, _tile, has_cell_state=False, two_passes=False, tile_panels=1)
gru_backward = recurrent_backward(_step, _step, has_cell_state=False, two_passes=False)

_dropped = cell_tile("gru_dropped", 4, (0, 1, 2), (0, 1, 3), H_GATES, _forward, dropped=True)
gru_dropped_forward = recurrent_forward(
    _dropped, _dropped, has_cell_state=False, two_passes=False, tile_panels=1, gates=3
)
gru_dropped_backward = recurrent_backward(_step, _step, has_cell_state=False, two_passes=False, gates=3)

_gates = cell_tile("gru_gates", 2, (0, 1), (0, 1), H_IN, _gates_forward)
_candidate = cell_tile("gru_candidate", 1, (0,), (0,), RH, _candidate_forward)
_step1 = cell_backward("gru_candidate_backward", _candidate_backward)
_step2 = cell_backward("gru_gates_backward", _gates_backward)
gru_reset_before_forward = recurrent_forward(_gates, _candidate, has_cell_state=False, two_passes=True, tile_panels=4)
gru_reset_before_backward = recurrent_backward(_step1, _step2, has_cell_state=False, two_passes=True)

_dropped_gates = cell_tile("gru_dropped_gates", 2, (0, 1), (0, 1), H_GATES, _gates_forward, dropped=True)
_dropped_candidate = cell_tile(
    "gru_dropped_candidate", 1, (0,), (0,), RH, _candidate_forward, dropped=True, first_gate=2
)
gru_reset_before_dropped_forward = recurrent_forward(
    _dropped_gates, _dropped_candidate, has_cell_state=False, two_passes=True, tile_panels=4, gates=3
)
gru_reset_before_dropped_backward = recurrent_backward(_step1, _step2, has_cell_state=False, two_passes=True, gates=3)
