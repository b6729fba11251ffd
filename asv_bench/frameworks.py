"""What peers.py compares: the workloads, their data, and for every framework a function that prepares one run.

A new peer is one function here and a line in PEERS. Nothing is imported before it is used.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # measure the tree that this file belongs to

GATES = {"lstm": 4, "gru": 3}


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    cell: str  # lstm | gru
    mode: str  # infer | train
    B: int
    T: int
    F: int
    H: int
    fill: float = 0.5
    holes: bool = False

    def __str__(self):
        fill = f"{self.fill:g}" + (" holes" if self.holes else "")
        return f"{self.cell.upper():4} {self.mode}  ({self.B},{self.T},{self.F},{self.H}) fill {fill}"

    def flops(self, valid_steps):
        """Multiplications and additions of the matrix products; backward has two products for each one of forward."""
        forward = 2 * valid_steps * GATES[self.cell] * self.H * (self.F + self.H)
        return forward if self.mode == "infer" else 3 * forward


class Data:
    """Everything a peer may need for one workload: the same arrays in every process, weights in Keras' layout."""

    def __init__(self, w):
        random = np.random.default_rng([w.B, w.T, w.F, w.H])

        def normal(*shape, scale):
            return (scale * random.standard_normal(shape)).astype(np.float32)

        G = GATES[w.cell]
        longest = min(w.T, max(1, round(2 * w.fill * w.T)))
        self.lengths = np.full(w.B, w.T) if w.fill >= 1 else random.integers(1, longest, size=w.B, endpoint=True)
        self.mask = np.arange(w.T) < self.lengths[:, None]
        if w.holes:  # as many valid steps a row, anywhere
            self.mask = random.permuted(self.mask, axis=1)
        self.x = normal(w.B, w.T, w.F, scale=1.0)
        self.kernel = normal(w.F, G * w.H, scale=w.F**-0.5)
        self.recurrent_kernel = normal(w.H, G * w.H, scale=w.H**-0.5)
        self.bias = normal(*((2, G * w.H) if w.cell == "gru" else (G * w.H,)), scale=0.1)
        self.d_outputs = normal(w.B, w.T, w.H, scale=1.0) * self.mask[..., None]

    def weights(self, dtype=np.float32):
        return [a.astype(dtype) for a in (self.kernel, self.recurrent_kernel, self.bias)]


# Each prepares (workload, data, threads) and returns run() and answers(what run returned) -> arrays in our layout.


def fastmask_peer(w, data, threads):
    from fastmask import set_num_threads

    set_num_threads(threads)
    weights = data.weights()
    stem = import_module(f"fastmask.ops.{w.cell}")
    if w.mode == "infer":
        layer, pack = getattr(stem, w.cell), getattr(stem, w.cell + "_pack")
        packed = pack(*weights)

        def run():
            return layer(data.x, *weights, mask=data.mask, packed=packed)

        return run, lambda result: {"outputs": result.outputs, "states": np.stack(result.states)}

    forward, backward = getattr(stem, w.cell + "_forward"), getattr(stem, w.cell + "_backward")

    def run():
        result, tape = forward(data.x, *weights, mask=data.mask)
        return result, backward(tape, data.d_outputs)

    def answers(result):
        (outputs, states), g = result
        return {
            "outputs": outputs,
            "states": np.stack(states),
            "d_x": g.x,
            "d_kernel": g.kernel,
            "d_recurrent_kernel": g.recurrent_kernel,
            "d_bias": g.bias,
        }

    return run, answers


def torch_packed(w, data, threads):
    return _torch(w, data, threads, packed=True)


def torch_padded(w, data, threads):
    return _torch(w, data, threads, packed=False)


def _torch(w, data, threads, packed):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.set_num_threads(threads)
    kernel, recurrent_kernel, bias = data.weights()
    order = [0, 1, 2, 3] if w.cell == "lstm" else [1, 0, 2]  # torch: i f g o and r z n
    bias = np.stack([bias, np.zeros_like(bias)]) if w.cell == "lstm" else bias
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[w.cell](w.F, w.H)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(_regate(kernel, order).T))
        layer.weight_hh_l0.copy_(torch.from_numpy(_regate(recurrent_kernel, order).T))
        layer.bias_ih_l0.copy_(torch.from_numpy(_regate(bias[0], order)))
        layer.bias_hh_l0.copy_(torch.from_numpy(_regate(bias[1], order)))
    x = torch.from_numpy(np.ascontiguousarray(data.x.swapaxes(0, 1)))  # (T,B,F), torch's own order
    lengths = torch.from_numpy(data.lengths)

    def forward():
        if not packed:
            return layer(x)
        outputs, states = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(outputs, total_length=w.T)[0], states

    def forward_answers(outputs, states):
        states = torch.stack(states if w.cell == "lstm" else (states,))[:, 0]
        return {"outputs": outputs.detach().numpy().swapaxes(0, 1), "states": states.detach().numpy()}

    if w.mode == "infer":
        layer.eval()

        def run():
            with torch.inference_mode():
                return forward()

        return run, lambda result: forward_answers(*result)

    x.requires_grad_(True)
    d_outputs = torch.from_numpy(np.ascontiguousarray(data.d_outputs.swapaxes(0, 1)))
    parameters = [x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]

    def run():
        outputs, states = forward()
        return outputs, states, torch.autograd.grad(outputs, parameters, d_outputs)

    def answers(result):
        outputs, states, gradients = result
        d_x, d_kernel, d_recurrent, d_bias_ih, d_bias_hh = (g.numpy() for g in gradients)
        inverse = np.argsort(order)
        d_bias = [_regate(d_bias_ih, inverse), _regate(d_bias_hh, inverse)]
        return forward_answers(outputs, states) | {
            "d_x": d_x.swapaxes(0, 1),
            "d_kernel": _regate(d_kernel.T, inverse),
            "d_recurrent_kernel": _regate(d_recurrent.T, inverse),
            "d_bias": d_bias[0] if w.cell == "lstm" else np.stack(d_bias),
        }

    return run, answers


def onnxruntime_lens(w, data, threads):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kernel, recurrent_kernel, bias = data.weights()
    order = [0, 3, 1, 2] if w.cell == "lstm" else [0, 1, 2]  # ONNX: i o f c and z r h
    bias = np.stack([bias, np.zeros_like(bias)]) if w.cell == "lstm" else bias
    constants = {
        "W": _regate(kernel, order).T[None],
        "R": _regate(recurrent_kernel, order).T[None],
        "B": _regate(bias, order).reshape(1, -1),
    }
    states = ["Y_h", "Y_c"] if w.cell == "lstm" else ["Y_h"]
    attributes = {"linear_before_reset": 1} if w.cell == "gru" else {}
    node = helper.make_node(w.cell.upper(), ["X", "W", "R", "B", "lens"], ["Y", *states], hidden_size=w.H, **attributes)
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info("X", float32, [w.T, w.B, w.F]),
            helper.make_tensor_value_info("lens", TensorProto.INT32, [w.B]),
        ],
        [helper.make_tensor_value_info("Y", float32, [w.T, 1, w.B, w.H])]
        + [helper.make_tensor_value_info(name, float32, [1, w.B, w.H]) for name in states],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8  # old enough for every onnxruntime that the `peers` extra admits
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feed = {"X": np.ascontiguousarray(data.x.swapaxes(0, 1)), "lens": data.lengths.astype(np.int32)}

    def run():
        return session.run(None, feed)

    def answers(result):
        return {"outputs": result[0][:, 0].swapaxes(0, 1), "states": np.stack([state[0] for state in result[1:]])}

    return run, answers


def _regate(weights, order):
    """Reorder the G blocks of H columns on the last axis."""
    blocks = np.split(weights, len(order), axis=-1)
    return np.concatenate([blocks[g] for g in order], axis=-1)


@dataclass(frozen=True)
class Peer:
    name: str
    prepare: object
    packages: tuple  # what must be installed
    modes: tuple = ("infer", "train")
    holes: bool = False  # takes masks with holes
    wrong: bool = False  # ignores the mask: a yardstick, not a competitor


PEERS = [
    Peer("fastmask", fastmask_peer, ("fastmask",), holes=True),
    Peer("torch packed", torch_packed, ("torch",)),
    Peer("torch padded*", torch_padded, ("torch",), wrong=True),
    Peer("onnxruntime", onnxruntime_lens, ("onnxruntime", "onnx"), modes=("infer",)),
]
