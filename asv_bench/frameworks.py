"""What peers.py compares: the workloads, their data, and for every framework a function that prepares one run.

A new peer is one function here and a line in PEERS. Nothing is imported before it is used.
"""

import importlib.util
import os
import shutil
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
    evenly: bool = False  # lengths evenly spaced, not drawn: 32 drawn ones of fill 0.1 were 11.2 % of the steps

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
        if w.evenly and w.fill < 1:
            self.lengths = random.permutation(np.linspace(1, longest, w.B).round().astype(np.int64))
        self.mask = np.arange(w.T) < self.lengths[:, None]
        if w.holes:  # as many valid steps a row, anywhere
            self.mask = random.permuted(self.mask, axis=1)
        self.padded = not self.mask.all()
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
    weights, mask = data.weights(), data.mask if data.padded else None
    stem = import_module(f"fastmask.ops.{w.cell}")
    if w.mode == "infer":
        layer, pack = getattr(stem, w.cell), getattr(stem, w.cell + "_pack")
        packed = pack(*weights)

        def run():
            return layer(data.x, *weights, mask=mask, packed=packed)

        return run, lambda result: {"outputs": result.outputs, "states": np.stack(result.states)}

    forward, backward = getattr(stem, w.cell + "_forward"), getattr(stem, w.cell + "_backward")

    def run():
        result, tape = forward(data.x, *weights, mask=mask)
        return result, backward(tape, data.d_outputs)

    def answers(result):
        (outputs, states), g = result
        gradients = _gradients(g.x, g.kernel, g.recurrent_kernel, g.bias)
        return {"outputs": outputs, "states": np.stack(states)} | gradients

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
    lengths, masked = torch.from_numpy(data.lengths), torch.from_numpy(~data.mask.T[..., None])

    def forward():
        if not packed:
            return layer(x)
        steps = x
        if w.holes:  # each row's valid steps first, in their order
            places = torch.argsort(masked, dim=0, stable=True)
            steps = x.gather(0, places.expand(-1, -1, w.F))
        outputs, states = layer(pack_padded_sequence(steps, lengths, enforce_sorted=False))
        outputs = pad_packed_sequence(outputs, total_length=w.T)[0]
        if w.holes:
            outputs = torch.zeros_like(outputs).scatter(0, places.expand(-1, -1, w.H), outputs)
        return outputs, states

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
        d_bias = np.stack([_regate(d, inverse) for d in (d_bias_ih, d_bias_hh)])
        return forward_answers(outputs, states) | _gradients(
            d_x.swapaxes(0, 1),
            _regate(d_kernel.T, inverse),
            _regate(d_recurrent.T, inverse),
            d_bias[0] if w.cell == "lstm" else d_bias,
        )

    return run, answers


def torch_compiled(w, data, threads):
    """A masked step in plain torch, compiled; torch.compile leaves torch.nn.LSTM and GRU as they are (graph breaks)."""
    import torch

    torch.set_num_threads(threads)
    torch._dynamo.reset()  # a process compiles for many shapes
    weights = [torch.from_numpy(a) for a in data.weights()]
    x = torch.from_numpy(np.ascontiguousarray(data.x.swapaxes(0, 1)))
    mask = torch.from_numpy(np.ascontiguousarray(data.mask.T[..., None]))
    step = torch.compile(_step(torch, w, data.padded), dynamic=False)

    def forward():
        kernel, recurrent_kernel, bias = weights
        projected = x @ kernel + (bias[0] if w.cell == "gru" else bias)
        states = (torch.zeros(w.B, w.H),) * (2 if w.cell == "lstm" else 1)
        outputs = []
        for t in range(w.T):
            states = step(states, projected[t], mask[t], recurrent_kernel, bias)
            outputs.append(states[0])
        return torch.stack(outputs), torch.stack(states)

    def forward_answers(outputs, states):
        return {"outputs": outputs.detach().numpy().swapaxes(0, 1), "states": states.detach().numpy()}

    if w.mode == "infer":

        def run():
            with torch.no_grad():  # inference_mode would compile anew
                return forward()

        return run, lambda result: forward_answers(*result)

    d_outputs = torch.from_numpy(np.ascontiguousarray(data.d_outputs.swapaxes(0, 1)))
    parameters = [x, *weights]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def run():
        outputs, states = forward()
        return outputs, states, torch.autograd.grad(outputs, parameters, d_outputs)

    def answers(result):
        d_x, *d_weights = (g.numpy() for g in result[2])
        return forward_answers(*result[:2]) | _gradients(d_x.swapaxes(0, 1), *d_weights)

    return run, answers


def _step(np_like, w, padded):
    """The masked step of a layer whose input has met the kernel, in the functions of torch or jax.numpy."""
    sigmoid, tanh, where = np_like.sigmoid, np_like.tanh, np_like.where

    def lstm(states, projected, mask, recurrent_kernel, bias):
        h, c = states
        z, H = projected + h @ recurrent_kernel, w.H
        i, f, g, o = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
        new_c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        new_h = sigmoid(o) * tanh(new_c)
        return (where(mask, new_h, h), where(mask, new_c, c)) if padded else (new_h, new_c)

    def gru(states, projected, mask, recurrent_kernel, bias):
        (h,), H = states, w.H
        recurrent = h @ recurrent_kernel + bias[1]
        z, r = sigmoid(projected[:, :H] + recurrent[:, :H]), sigmoid(projected[:, H : 2 * H] + recurrent[:, H : 2 * H])
        candidate = tanh(projected[:, 2 * H :] + r * recurrent[:, 2 * H :])
        new_h = z * h + (1 - z) * candidate
        return (where(mask, new_h, h),) if padded else (new_h,)

    return {"lstm": lstm, "gru": gru}[w.cell]


def _gradients(d_x, d_kernel, d_recurrent_kernel, d_bias):
    return {"d_x": d_x, "d_kernel": d_kernel, "d_recurrent_kernel": d_recurrent_kernel, "d_bias": d_bias}


def jax_scan(w, data, threads):
    """lax.scan over the time steps, the input projection before it, all under jit."""
    import jax
    import jax.numpy as jnp

    class functions:
        sigmoid, tanh, where = jax.nn.sigmoid, jnp.tanh, jnp.where

    step = _step(functions, w, data.padded)

    def forward(x, kernel, recurrent_kernel, bias, mask):
        def scanned(states, inputs):
            states = step(states, *inputs, recurrent_kernel, bias)
            return states, states[0]

        projected = x @ kernel + (bias[0] if w.cell == "gru" else bias)
        start = (jnp.zeros((w.B, w.H)),) * (2 if w.cell == "lstm" else 1)
        states, outputs = jax.lax.scan(scanned, start, (projected, mask))
        return outputs, states

    def both(x, kernel, recurrent_kernel, bias, mask, d_outputs):
        outputs, pullback, states = jax.vjp(
            lambda *differentiable: forward(*differentiable, mask), x, kernel, recurrent_kernel, bias, has_aux=True
        )
        return outputs, states, pullback(d_outputs)

    inputs = [data.x.swapaxes(0, 1), *data.weights(), data.mask.T[..., None]]
    function = jax.jit(forward)
    if w.mode == "train":
        inputs.append(data.d_outputs.swapaxes(0, 1))
        function = jax.jit(both)
    inputs = [jnp.asarray(np.ascontiguousarray(a)) for a in inputs]

    def run():
        return jax.block_until_ready(function(*inputs))

    def answers(result):
        outputs, states, *gradients = result
        found = {"outputs": np.asarray(outputs).swapaxes(0, 1), "states": np.stack(states)}
        if gradients:
            d_x, *d_weights = map(np.asarray, gradients[0])
            found |= _gradients(d_x.swapaxes(0, 1), *d_weights)
        return found

    return run, answers


def keras_tensorflow(w, data, threads):
    """The layer in a tf.function."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():  # before TensorFlow's first work
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    layer = _keras_layer(w, data)
    x, mask = tf.constant(data.x), tf.constant(data.mask) if data.padded else None

    if w.mode == "infer":

        @tf.function
        def run():
            return layer(x, mask=mask)

    else:
        d_outputs = tf.constant(data.d_outputs)
        weights = [variable.value for variable in layer.trainable_variables]

        @tf.function
        def run():
            with tf.GradientTape() as tape:
                tape.watch(x)
                result = layer(x, mask=mask, training=True)
            return *result, tape.gradient(result[0], [x, *weights], output_gradients=d_outputs)

    return run, lambda result: _keras_answers(w, result)


def keras_torch(w, data, threads):
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(threads)
    layer = _keras_layer(w, data)
    x, mask = torch.from_numpy(data.x), torch.from_numpy(data.mask) if data.padded else None

    if w.mode == "infer":

        def run():
            with torch.no_grad():
                return layer(x, mask=mask)

    else:
        x.requires_grad_(True)
        d_outputs = torch.from_numpy(data.d_outputs)
        weights = [variable.value for variable in layer.trainable_variables]

        def run():
            result = layer(x, mask=mask, training=True)
            return *result, torch.autograd.grad(result[0], [x, *weights], d_outputs)

    return run, lambda result: _keras_answers(w, result)


def _keras_layer(w, data):
    import keras

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[w.cell](w.H, return_sequences=True, return_state=True)
    layer.build((w.B, w.T, w.F))
    layer.set_weights(data.weights())
    return layer


def _keras_answers(w, result):
    from keras.ops import convert_to_numpy, stop_gradient

    def plain(tensor):
        return convert_to_numpy(stop_gradient(tensor))

    outputs, *states = result[: 3 if w.cell == "lstm" else 2]
    found = {"outputs": plain(outputs), "states": np.stack([plain(state) for state in states])}
    return found | (_gradients(*map(plain, result[-1])) if w.mode == "train" else {})


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


def openvino_lens(w, data, threads):
    """LSTMSequence and GRUSequence; without padding the lengths are a constant, as its fast path wants them."""
    import openvino
    from openvino import opset8 as opset

    kernel, recurrent_kernel, bias = data.weights()
    order = [1, 0, 2, 3] if w.cell == "lstm" else [0, 1, 2]  # OpenVINO: f i c o and z r h
    if w.cell == "gru":  # the biases of z and r summed, those of h apart
        bias = np.concatenate([bias[0, : 2 * w.H] + bias[1, : 2 * w.H], bias[0, 2 * w.H :], bias[1, 2 * w.H :]])
    else:
        bias = _regate(bias, order)
    x, lengths = np.ascontiguousarray(data.x), data.lengths.astype(np.int32)
    inputs = [opset.parameter(x.shape, np.float32)]
    if data.padded:
        inputs.append(opset.parameter(lengths.shape, np.int32))
    sequence = {"lstm": opset.lstm_sequence, "gru": opset.gru_sequence}[w.cell]
    zeros = [opset.constant(np.zeros((w.B, 1, w.H), np.float32))] * (2 if w.cell == "lstm" else 1)
    weights = [np.ascontiguousarray(_regate(a, order).T[None]) for a in (kernel, recurrent_kernel)]
    options = {"linear_before_reset": True} if w.cell == "gru" else {}
    node = sequence(
        inputs[0],
        *zeros,
        inputs[1] if data.padded else opset.constant(lengths),
        *map(opset.constant, [*weights, bias[None]]),
        w.H,
        "forward",
        **options,
    )
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(openvino.Model(node.outputs(), inputs), "CPU", settings)
    request, feed = compiled.create_infer_request(), [x, lengths][: len(inputs)]

    def run():
        return request.infer(feed, share_inputs=True, share_outputs=True)

    def answers(result):
        outputs, *states = (result[i] for i in range(len(compiled.outputs)))
        return {"outputs": outputs[:, 0], "states": np.stack([state[:, 0] for state in states])}

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
    holes: bool = True  # takes masks with holes
    padding_only: bool = False  # nothing to be won where every step is valid
    wrong: bool = False  # ignores the mask: a yardstick, not a competitor, where there is one
    slow_start: bool = False  # takes seconds to start or to compile: not for --quick
    compiler: bool = False  # needs a C++ compiler

    def takes(self, w):
        return w.mode in self.modes and (self.holes or not w.holes) and (w.fill < 1 or not self.padding_only)

    def is_wrong(self, w, answer=None):
        """Whether this answer of a peer that ignores the mask (None: any of its answers) is bound to be wrong."""
        return self.wrong and w.fill < 1 and (w.holes or answer in (None, "states"))

    def absence(self):
        """Why it cannot take part here, or None."""
        missing = [package for package in self.packages if not importlib.util.find_spec(package)]
        if missing:
            return "not installed: " + ", ".join(missing)
        if self.compiler and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
            return "no C++ compiler"
        return None


PEERS = [
    Peer("fastmask", fastmask_peer, ("fastmask",)),
    Peer("torch packed", torch_packed, ("torch",), padding_only=True),
    Peer("torch padded*", torch_padded, ("torch",), wrong=True),
    Peer("torch compiled", torch_compiled, ("torch",), slow_start=True, compiler=True),
    Peer("onnxruntime", onnxruntime_lens, ("onnxruntime", "onnx"), modes=("infer",), holes=False),
    Peer("OpenVINO", openvino_lens, ("openvino",), modes=("infer",), holes=False),
    Peer("JAX scan", jax_scan, ("jax",), slow_start=True),
    Peer("Keras/TF", keras_tensorflow, ("keras", "tensorflow"), slow_start=True),
    Peer("Keras/torch", keras_torch, ("keras", "torch"), slow_start=True),
]
