"""The compiled recurrent ops against live Keras (TensorFlow) and PyTorch packed sequences."""

import itertools
import os

import numpy as np
import pytest

from cases import CELLS as OPS
from cases import DTYPES, MASKS, Problem, mask_named
from fastmask import layers, masks
from fastmask.ragged import Ragged
from helpers import assert_close, mask_cases

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install fastmask[peers]")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install fastmask[peers]")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastmask[peers]")
if keras.backend.backend() != "tensorflow":
    pytest.skip(f"Keras runs on {keras.backend.backend()}, not on tensorflow", allow_module_level=True)

LAYERS = {
    "simple_rnn": keras.layers.SimpleRNN,
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
    "gru_before": keras.layers.GRU,
}
SIZE = (5, 7, 3, 17)  # B, T, F, H
# Eps of the largest value of an array that two correct implementations may differ by; 11.4 were measured.
K = 48


def assert_agree(ours, theirs, dtype, moved=None):
    """Within K eps of each array's largest value, and twice what rounding of the inputs moves it (name -> distance)."""
    assert ours.keys() == theirs.keys()
    for name, a in ours.items():
        atol = K * np.finfo(dtype).eps * np.abs(theirs[name]).max(initial=1.0)
        atol += 2 * moved[name] if moved else 0
        try:
            assert_close(a, theirs[name], dtype, k=0, atol=atol)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


# ---- Keras ----------------------------------------------------------------------------------------------------------
def keras_train(cell, problem, mask, states, layer_options):
    """Name -> array, as Problem.train, from a Keras layer."""
    dtype = problem.dtype.name
    options = {"return_sequences": True, **problem.cell.variant, **layer_options}
    layer = LAYERS[cell](problem.H, return_state=True, dtype=dtype, **options)
    x, mask = tf.constant(problem.x), None if mask is None else tf.constant(mask)
    layer(x)
    layer.set_weights(problem.weights)
    states = None if states is None else [tf.constant(s) for s in states]
    d_outputs = problem.d_outputs(options)
    with tf.GradientTape() as tape:
        tape.watch([x, *(states or [])])
        outputs, *finals = layer(x, mask=mask, initial_state=states)
        terms = zip([outputs, *finals], [d_outputs, *problem.d_states], strict=True)
        value = tf.add_n([tf.reduce_sum(a * d) for a, d in terms])
    found = tape.gradient(value, [x, *layer.trainable_variables, *(states or [])], unconnected_gradients="zero")
    names = ["outputs", *(f"state {i}" for i in range(len(finals)))]
    names += [f"gradient of {name}" for name in ("x", "kernel", "recurrent_kernel", "bias")]
    names += [f"gradient of state {i}" for i in range(len(states or []))]
    return dict(zip(names, (a.numpy() for a in [outputs, *finals, *found]), strict=True))


def compare(cell, mask, dtype=np.float64, with_state=True, layer_options=None, **options):
    problem = Problem(cell, *SIZE, dtype=dtype)
    states = problem.states if with_state else None
    ours = problem.train(mask=mask, initial_state=states, **options)
    theirs = keras_train(cell, problem, mask, states, {**options, **(layer_options or {})})
    assert_agree({name: a for name, a in ours.items() if a is not None}, theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("cell", OPS)
def test_keras_under_every_mask(cell, name, dtype):
    compare(cell, mask_named(name, *SIZE[:2]), dtype)


@pytest.mark.parametrize("go_backwards, zero, sequences", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("cell", OPS)
def test_keras_under_every_switch(cell, go_backwards, zero, sequences):
    # A5: Keras zeroes the last output of a row that ends masked; here the flag concerns sequences only
    theirs = None if sequences else {"zero_output_for_mask": False}
    options = {"go_backwards": go_backwards, "zero_output_for_mask": zero, "return_sequences": sequences}
    for name in ("right", "left", "holes", "empty_rows"):
        for with_state in (False, True):
            compare(cell, mask_cases(*SIZE[:2])[name], np.float64, with_state, theirs, **options)


@pytest.mark.parametrize(
    "activation, recurrent_activation",
    [(None, "hard_sigmoid"), ("relu", "sigmoid"), ("selu", "softsign"), ("silu", "sparse_sigmoid"), ("mish", "tanh")],
)
@pytest.mark.parametrize("cell", OPS)
def test_keras_with_other_activations(cell, activation, recurrent_activation):
    options = dict(zip(OPS[cell].activations, (activation, recurrent_activation), strict=False))
    compare(cell, mask_cases(*SIZE[:2])["holes"], **options)


@pytest.mark.parametrize("cell", OPS)
def test_keras_bidirectional(cell):
    """Both directions of a Bidirectional layer: forwards, and backwards with restored order."""
    one, two = Problem(cell, *SIZE), Problem(cell, *SIZE, seed=1)
    inner = LAYERS[cell](SIZE[3], return_sequences=True, dtype="float64", **one.cell.variant)
    layer = keras.layers.Bidirectional(inner, dtype="float64")
    layer(one.x)
    layer.set_weights([*one.weights, *two.weights])
    for mask in mask_cases(*SIZE[:2]).values():
        forwards = one.infer(mask=mask, zero_output_for_mask=True).outputs
        backwards = two.infer(
            x=one.x, mask=mask, zero_output_for_mask=True, go_backwards=True, restore_order=True
        ).outputs
        theirs = layer(one.x, mask=tf.constant(mask)).numpy()
        assert_agree({"outputs": np.concatenate([forwards, backwards], axis=2)}, {"outputs": theirs}, np.float64)


def test_keras_loses_the_mask_and_fastmask_does_not():
    """The deliberate difference A1, so that a change in Keras is noticed: an implicit mask beside an initial state."""
    problem = Problem("gru", *SIZE)
    mask = mask_cases(*SIZE[:2])["right"]
    x = np.where(mask[..., None], problem.x, 0)
    layer = keras.layers.GRU(SIZE[3], return_sequences=True, dtype="float64")
    masked = keras.layers.Masking(dtype="float64")(x)
    layer(masked)
    layer.set_weights(problem.weights)
    theirs = layer(masked, initial_state=tf.constant(problem.states[0])).numpy()
    ours, unmasked = (problem.infer(x=x, mask=m, initial_state=problem.states).outputs for m in (mask, None))
    assert_agree({"outputs": unmasked}, {"outputs": theirs}, np.float64)
    assert np.abs(ours - theirs).max() > 0.1


# ---- Keras' dropout and states, in layers ----------------------------------------------------------------------------
RATES = [(0.4, 0.0), (0.0, 0.4), (0.3, 0.4), (1.0, 0.4), (0.3, 1.0)]  # dropout, recurrent_dropout


def layer_pair(cell, **options):
    """A layer here and in Keras, of the same random weights."""
    _, _, F, H = SIZE
    options = {"dtype": "float64", "bias_initializer": "random_normal", **OPS[cell].variant, **options}
    theirs = LAYERS[cell](H, **options)
    ours = getattr(layers, LAYERS[cell].__name__)(H, **options)
    ours.build((None, None, F))
    theirs.build((SIZE[0], None, F))
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def record_masks(cell):
    """A list in which the dropout masks of a Keras cell's latest training call are found: those of x, those of h."""
    found = [None, None]

    def record(i, draw):
        def recording(x):
            found[i] = draw(x)
            return found[i]

        return recording

    cell.get_dropout_mask = record(0, cell.get_dropout_mask)
    cell.get_recurrent_dropout_mask = record(1, cell.get_recurrent_dropout_mask)
    return found


def as_factors(mask):
    """Keras' mask, one for all gates or a list of one for each, as the ops take it."""
    if mask is None:
        return None
    return np.stack([m.numpy() for m in mask], axis=1) if isinstance(mask, list) else mask.numpy()


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("cell", OPS)
def test_keras_dropout(cell, rates):
    """Keras draws; then outputs, states and gradients are the same, and so are the number and form of the choices."""
    options = {"dropout": rates[0], "recurrent_dropout": rates[1], "return_sequences": True, "return_state": True}
    for name, backwards in (("holes", False), ("first_masked", True)):
        problem, mask = Problem(cell, *SIZE), mask_named(name, *SIZE[:2])
        ours, theirs = layer_pair(cell, go_backwards=backwards, **options)
        drawn = record_masks(theirs.cell)
        x, states = tf.constant(problem.x), [tf.constant(s) for s in problem.states]
        d = (problem.d_sequence, *problem.d_states)
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            wanted = theirs(x, mask=tf.constant(mask), initial_state=states, training=True)
            value = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(wanted, d, strict=True)])
        sources = [x, *states, *theirs.trainable_variables]
        wanted = [*wanted, *tape.gradient(value, sources, unconnected_gradients="zero")]

        factors = [as_factors(masks) for masks in drawn]
        for i, own in enumerate(ours._dropout_factors(problem.x)):
            if own is None:  # Keras draws for rates of 1, too, in vain
                assert rates[i] == 0 or (rates[i] == 1 and cell != "simple_rnn")
                factors[i] = None
            else:
                factors[i] = factors[i].reshape(own.shape)  # as many choices
        ours._dropout_factors = lambda inputs, factors=factors: tuple(factors)
        got = list(ours(problem.x, mask=mask, initial_state=problem.states, training=True))
        got += [ours.backward(d), *ours.initial_state_gradients, *ours.gradients]
        for a, b in zip(got, wanted, strict=True):
            assert_agree({"": np.asarray(a)}, {"": b.numpy()}, np.float64)


@pytest.mark.parametrize("cell", OPS)
def test_keras_stateful(cell):
    """Three batches, the second in training; states kept under the mask, reset, and overridden by initial_state."""
    batches = [Problem(cell, *SIZE, seed=i) for i in range(4)]
    names = ("holes", "first_masked", "empty_rows", "right")
    for backwards in (False, True):
        options = {"stateful": True, "return_state": True, "return_sequences": True, "go_backwards": backwards}
        ours, theirs = layer_pair(cell, **options)
        for i, (batch, name) in enumerate(zip(batches, names, strict=True)):
            mask = mask_named(name, *SIZE[:2])
            if i == 2:
                ours.reset_state()
                theirs.reset_state()
            states = batch.states if i == 3 else None
            got = ours(batch.x, mask=mask, initial_state=states, training=i == 1)
            wanted = theirs(tf.constant(batch.x), mask=tf.constant(mask), initial_state=states)
            for a, b in zip(got, wanted, strict=True):
                assert_agree({"": np.asarray(a)}, {"": b.numpy()}, np.float64)
        assert_agree({"": ours(batch.x)[0]}, {"": theirs(tf.constant(batch.x))[0].numpy()}, np.float64)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("cell", OPS)
def test_keras_stateful_bidirectional(cell, return_sequences):
    """Without return_state, with which Keras fails under a mask."""
    inner = layer_pair(cell, stateful=True, return_sequences=return_sequences)
    ours, theirs = layers.Bidirectional(inner[0]), keras.layers.Bidirectional(inner[1], dtype="float64")
    theirs.build((SIZE[0], None, SIZE[2]))
    ours.build((None, None, SIZE[2]))
    ours.set_weights(theirs.get_weights())
    for i, name in enumerate(("right", "holes", "empty_rows")):
        x, mask = Problem(cell, *SIZE, seed=i).x, mask_named(name, *SIZE[:2])
        wanted = theirs(tf.constant(x), mask=tf.constant(mask)).numpy()
        assert_agree({"": np.asarray(ours(x, mask=mask))}, {"": wanted}, np.float64)


# ---- PyTorch --------------------------------------------------------------------------------------------------------
TORCH = {"simple_rnn": (torch.nn.RNN, [0]), "lstm": (torch.nn.LSTM, [0, 1, 2, 3]), "gru": (torch.nn.GRU, [1, 0, 2])}


def to_keras(weight, order):
    """PyTorch's (G*H,K) with blocks in its order -> Keras' (K,G*H); biases (G*H,) alike."""
    blocks = np.split(weight.detach().numpy(), len(order))
    return np.concatenate([blocks[g] for g in order]).T.copy()


def torch_weights(cell, module, suffix, get=lambda parameter: parameter):
    """Kernel, recurrent kernel and bias (or their gradients) in Keras' layout."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    W, U, b, c = (to_keras(get(getattr(module, name + suffix)), TORCH[cell][1]) for name in names)
    return W, U, np.stack([b, c]) if cell == "gru" else b, c


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", [[6, 1, 4, 2], [6, 6, 6, 6], [3, 5, 6, 1, 1, 1, 2, 6, 6]])
@pytest.mark.parametrize("cell", TORCH)
def test_torch_packed(cell, lengths, dtype):
    """Both directions of a bidirectional PyTorch layer over packed sequences; ours padded and ragged."""
    B, T, F, H = len(lengths), 6, 5, 33
    torch.manual_seed(0)
    module = TORCH[cell][0](F, H, batch_first=True, bidirectional=True, dtype=dtype)
    x = torch.randn(B, T, F, dtype=dtype, requires_grad=True)
    n_states = OPS[cell].states
    states = [torch.randn(2, B, H, dtype=dtype, requires_grad=True) for _ in range(n_states)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    packed, finals = module(packed, tuple(states) if cell == "lstm" else states[0])
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=T)
    finals = finals if cell == "lstm" else (finals,)
    d_outputs, d_finals = torch.randn_like(outputs), [torch.randn_like(s) for s in finals]
    torch.autograd.backward([outputs, *finals], [d_outputs, *d_finals])

    mask = masks.from_lengths(lengths, T)
    padded, ragged = x.detach().numpy(), Ragged.from_padded(x.detach().numpy(), mask)
    dx = {"padded": 0, "ragged": 0}
    for d, suffix in enumerate(("", "_reverse")):
        W, U, bias, c = torch_weights(cell, module, suffix)
        dW, dU, db, _ = torch_weights(cell, module, suffix, get=lambda parameter: parameter.grad)
        half = slice(d * H, (d + 1) * H)
        theirs = {"outputs": outputs[:, :, half].detach().numpy()}
        theirs.update({f"state {i}": s[d].detach().numpy() for i, s in enumerate(finals)})
        theirs.update({"gradient of kernel": dW, "gradient of recurrent_kernel": dU, "gradient of bias": db})
        theirs.update({f"gradient of state {i}": s.grad[d].numpy() for i, s in enumerate(states)})
        options = {"initial_state": tuple(s[d].detach().numpy() for s in states), "go_backwards": bool(d)}
        options |= {"restore_order": True, **OPS[cell].variant}
        weights = W, U, bias if cell == "gru" else bias + c
        d_steps, d_states = d_outputs[:, :, half].numpy(), tuple(s[d].numpy() for s in d_finals)

        result, tape = OPS[cell].forward(padded, *weights, mask=mask, zero_output_for_mask=True, **options)
        gradients = OPS[cell].backward(tape, d_steps, d_states)
        assert_agree(collect(result.outputs, result, gradients), theirs, padded.dtype)
        dx["padded"] = dx["padded"] + gradients.x

        result, tape = OPS[cell].forward(ragged, *weights, **options)
        gradients = OPS[cell].backward(tape, Ragged.from_padded(d_steps, mask), d_states)
        assert_agree(collect(result.outputs.to_padded()[0], result, gradients), theirs, padded.dtype)
        dx["ragged"] = dx["ragged"] + gradients.x.to_padded()[0]
    for kind in dx:
        assert_agree({"gradient of x": dx[kind]}, {"gradient of x": x.grad.numpy()}, padded.dtype)


def collect(outputs, result, gradients):
    found = {"outputs": outputs, **{f"state {i}": s for i, s in enumerate(result.states)}}
    found.update({f"gradient of {name}": getattr(gradients, name) for name in ("kernel", "recurrent_kernel", "bias")})
    return {**found, **{f"gradient of state {i}": s for i, s in enumerate(gradients.initial_state)}}
