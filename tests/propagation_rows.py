"""The table of mask propagation: what each layer does with the masks of its inputs, and what Keras 3 does instead where
that is another thing. test_propagation.py holds fastmask to it, peers/test_peers_propagation.py both libraries.
"""

from typing import NamedTuple

import numpy as np

from fastmask.ragged import Ragged

B, T, T2, F, V, H = 4, 5, 2, 6, 7, 2


# ---- what goes in ---------------------------------------------------------------------------------------------------
class Source(NamedTuple):
    """An input of a layer, and the mask it comes under, if any."""

    values: np.ndarray
    mask: np.ndarray | None = None

    @property
    def is_found_by_masking(self):
        """Whether Masking makes this mask of these values."""
        x = self.values
        return self.mask is not None and x.dtype.kind == "f" and np.array_equal((x != 0).any(axis=-1), self.mask)

    def ragged(self):
        """The same with a sequence as rows of different lengths, whatever the mask; it is that of their steps."""
        if self.values.shape[1] != T:
            return self
        mask = None if self.mask is None else self.mask[RAGGED_ROWS]
        return Source(Ragged.from_padded(self.values, RAGGED_ROWS), mask)


def _source(*shape, mask=None, seed=0):
    x = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return Source(x if mask is None else np.where(mask[..., None], x, np.float32(0)), mask)


HOLES = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 1], [1, 0, 0, 1, 1], [0, 1, 0, 0, 0]], bool)
RIGHT = np.arange(T) < [[5], [2], [3], [1]]
EMPTY = np.arange(T) < [[5], [0], [3], [1]]
RAGGED_ROWS = np.arange(T) < [[5], [3], [0], [4]]
WORDS = np.arange(T2) < np.array([[2, 1, 2, 0, 0], [1, 0, 0, 0, 0], [2, 2, 2, 1, 2], [0, 1, 0, 0, 0]])[..., None]
IDS = np.where(HOLES, np.arange(B * T).reshape(B, T) % (V - 1) + 1, 0)
SOURCES = {
    "steps": _source(B, T, F, mask=HOLES),
    "other": _source(B, T, F, mask=RIGHT, seed=1),
    "empty": _source(B, T, F, mask=EMPTY, seed=2),
    "plain": _source(B, T, F, seed=3),
    "both": Source(_source(B, T, F, mask=HOLES).values, RIGHT),  # zeros elsewhere than the mask
    "ids": Source(IDS, RIGHT),
    "vector": _source(B, F),
    "rows": _source(B, F, mask=np.array([True, False, True, True])),
    "state": _source(B, H, seed=4),
    "words": _source(B, T, T2, F, mask=WORDS),
    "letters": _source(B, T, T2, F, seed=5),
    "pictures": Source(_source(B, T, T2, F).values, HOLES),
}


# ---- what comes out -------------------------------------------------------------------------------------------------
USED = "used up, without a word"
LOST = "lost, with a warning"
FAILS = "an error"
ABSENT = "no such layer"


class Keras(NamedTuple):
    """What Keras does where that is another thing, on purpose: a docstring says so, too."""

    does: str
    out: object = ABSENT  # as Row's; or FAILS or ABSENT
    values: object = None  # (Keras' layer, its outputs, *sources) -> what fastmask's outputs are, if not those
    warns: bool = False  # beside an `out` that is not LOST


class Row(NamedTuple):
    """What a layer does with the masks of its inputs."""

    make: object  # the library -> the layer
    inputs: str  # of SOURCES
    out: object  # USED, LOST, or the masks of the inputs -> that of the output, a list for several
    says: str  # what summary says of the layer
    keras: Keras | None = None  # None: the same
    warns: bool | None = None  # if not as `out` says
    keywords: tuple = ()  # by which the last inputs are passed
    ragged: bool = True  # whether it takes a Ragged

    @property
    def sources(self):
        return [SOURCES[name] for name in self.inputs.split()]

    @property
    def is_lost(self):
        return self.out is LOST if self.warns is None else self.warns

    def expected(self, out=None):
        """The mask of the output, of several a list; None where there is none."""
        out = self.out if out is None else out
        return None if out in (USED, LOST) else out(*(s.mask for s in self.sources[: self.n_inputs]))

    @property
    def n_inputs(self):
        return len(self.sources) - len(self.keywords)

    def arguments(self, values):
        """(inputs, keywords) of a call: those of several inputs in a list."""
        n = self.n_inputs
        return one_or_list(values[:n]), dict(zip(self.keywords, values[n:], strict=True))


def one_or_list(values):
    """As a layer of one input or of several takes them."""
    return values[0] if len(values) == 1 else list(values)


def same(mask, *others):
    return mask


def of_second(mask, other):
    return other


def either(a, b):
    return a | b


def no_mask(*masks):
    return None


def all_true(*masks):
    return np.ones((B, T), bool)


def scale(x):
    return x * 2.0


def softmax(x, axis, where):
    e = np.where(where, np.exp(x), 0)
    return e / e.sum(axis=axis, keepdims=True)


def own(f, supports_masking=False, **methods):
    """A layer of one's own that doubles its input."""
    layer = type("Doubled", (f.layers.Layer,), {"call": lambda self, inputs: inputs * 2.0, **methods})()
    if supports_masking:
        layer.supports_masking = True
    return layer


def block(f):
    """A layer of one's own that says nothing of masks, around one that uses them."""
    layer = own(f, call=lambda self, inputs: self.inner(inputs))
    layer.inner = f.layers.GRU(H, return_sequences=True)
    return layer


def chain(f):
    return f.Sequential([f.layers.Dense(3), f.layers.GRU(H, return_sequences=True)])


def forks(f):
    x = f.Input((None, F))
    y = f.layers.GRU(H, return_sequences=True)(x)
    return f.Model(x, [f.layers.Dense(3)(y), f.layers.GlobalAveragePooling1D()(y), y])


# ---- the table ------------------------------------------------------------------------------------------------------
KEEPS = Keras("drops the mask, with a warning", LOST)  # here it goes on
OURS_ALONE = Keras("has no such layer")
SPEAKS = Keras("drops the mask in silence", USED)
WARNS = Keras("warns, though the mask goes on", same, warns=True)
RECURRENT = ("SimpleRNN", "GRU", "LSTM")
ELEMENTWISE = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")

ROWS = [
    # ---- each step by itself
    Row(lambda f: f.layers.Activation("tanh"), "steps", same, "passes"),
    Row(lambda f: f.layers.Activation("softmax"), "steps", same, "passes"),
    Row(lambda f: f.layers.ReLU(), "steps", same, "passes"),
    Row(lambda f: f.layers.LeakyReLU(), "steps", same, "passes"),
    Row(lambda f: f.layers.ELU(), "steps", same, "passes"),
    Row(lambda f: f.layers.PReLU(shared_axes=[1]), "steps", same, "passes"),
    Row(lambda f: f.layers.Dense(3), "steps", same, "passes"),
    Row(lambda f: f.layers.Dense(3), "rows", same, "passes"),
    Row(lambda f: f.layers.Dense(3), "words", same, "passes"),
    Row(lambda f: f.layers.Dense(3), "pictures", same, "passes"),
    Row(lambda f: f.layers.Identity(), "steps", same, "passes"),
    Row(lambda f: f.layers.Identity(), "ids", same, "passes"),
    Row(lambda f: f.layers.Dropout(0.5), "steps", same, "passes"),
    Row(lambda f: f.layers.SpatialDropout1D(0.5), "steps", same, "passes"),
    Row(lambda f: f.layers.GaussianNoise(0.5), "steps", same, "passes"),
    Row(lambda f: f.layers.LayerNormalization(), "steps", same, "passes"),
    Row(lambda f: f.layers.UnitNormalization(), "steps", same, "passes"),
    Row(lambda f: f.layers.BatchNormalization(), "steps", same, "uses, passes"),
    Row(lambda f: f.layers.TimeDistributed(f.layers.Dense(3)), "steps", same, "passes"),
    Row(lambda f: f.layers.TimeDistributed(f.layers.Dense(3)), "words", same, "passes"),
    Row(lambda f: f.layers.TimeDistributed(f.layers.Flatten()), "pictures", same, "passes"),
    Row(
        lambda f: f.layers.TimeDistributed(f.layers.GRU(H)),
        "words",
        lambda m: m.any(axis=2),
        "uses, passes",
        Keras("leaves the mask (B,T,T2) as it is", same),
    ),
    Row(
        lambda f: f.layers.TimeDistributed(f.layers.GRU(H)),
        "pictures",
        same,
        "uses, passes",
        Keras("fails under a mask (B,T)", FAILS),
    ),
    Row(lambda f: f.layers.TimeDistributed(f.layers.GRU(H, return_sequences=True)), "words", same, "uses, passes"),
    Row(lambda f: f.layers.TimeDistributed(f.layers.Masking()), "words", same, "makes"),
    Row(
        lambda f: f.layers.TimeDistributed(f.layers.Masking()),
        "letters",
        lambda _: np.ones((B, T, T2), bool),
        "makes",
        Keras("loses the mask that is made inside", USED),
    ),
    # ---- where masks begin
    Row(lambda f: f.layers.Masking(), "steps", same, "makes"),
    Row(lambda f: f.layers.Masking(), "plain", all_true, "makes"),
    Row(
        lambda f: f.layers.Masking(),
        "both",
        lambda m: m & HOLES,
        "makes",
        Keras(
            "replaces the mask that comes in", lambda m: HOLES, lambda layer, y, x: np.where(x.mask[..., None], y, 0)
        ),
    ),
    Row(
        lambda f: f.layers.Embedding(V, 3, mask_zero=True),
        "ids",
        lambda m: m & (IDS != 0),
        "makes",
        Keras("replaces the mask that comes in", lambda m: IDS != 0),
    ),
    Row(lambda f: f.layers.Embedding(V, 3), "ids", same, "passes", KEEPS),
    Row(lambda f: f.layers.ApplyMask(), "steps", same, "uses, passes", OURS_ALONE),
    Row(lambda f: f.layers.ApplyMask(), "plain steps", of_second, "uses, passes", OURS_ALONE),
    Row(lambda f: f.layers.ApplyMask(), "other steps", lambda a, b: a & b, "uses, passes", OURS_ALONE),
    # ---- recurrent
    *(
        row
        for name in RECURRENT
        for row in (
            Row(lambda f, name=name: getattr(f.layers, name)(H), "steps", USED, "uses, ends"),
            Row(lambda f, name=name: getattr(f.layers, name)(H, return_sequences=True), "steps", same, "uses, passes"),
            Row(
                lambda f, name=name: getattr(f.layers, name)(H, return_sequences=True, go_backwards=True),
                "steps",
                lambda m: m[:, ::-1],
                "uses, reverses",
                Keras("hands on the mask unreversed", same),
            ),
            Row(lambda f, name=name: getattr(f.layers, name)(H, go_backwards=True), "other", USED, "uses, ends"),
            Row(lambda f, name=name: getattr(f.layers, name)(H, return_state=True), "empty", USED, "uses, ends"),
            Row(
                lambda f, name=name: getattr(f.layers, name)(H, return_sequences=True, return_state=True),
                "empty",
                lambda m, n=2 if name == "LSTM" else 1: [m] + n * [None],
                "uses, passes",
            ),
            Row(
                lambda f, name=name: getattr(f.layers, name)(H, return_sequences=True, zero_output_for_mask=True),
                "steps",
                same,
                "uses, passes",
            ),
            Row(
                lambda f, name=name: getattr(f.layers, name)(H, zero_output_for_mask=True),
                "other",
                USED,
                "uses, ends",
                Keras(
                    "zeroes the last output, too", USED, lambda layer, y, x: without_zeros(layer)(x.values, mask=x.mask)
                ),
            ),
        )
    ),
    Row(
        lambda f: f.layers.GRU(H, return_sequences=True),
        "steps state",
        same,
        "uses, passes",
        Keras(
            "ignores the mask beside an initial_state",
            same,
            lambda layer, y, x, h: layer(x.values, mask=x.mask, initial_state=h.values),
        ),
        keywords=("initial_state",),
    ),
    Row(lambda f: f.layers.RNN(f.layers.GRUCell(H)), "steps", USED, "uses, ends"),
    Row(
        lambda f: f.layers.RNN(f.layers.LSTMCell(H), return_sequences=True, return_state=True),
        "empty",
        lambda m: [m, None, None],
        "uses, passes",
    ),
    Row(
        lambda f: f.layers.RNN(f.layers.SimpleRNNCell(H), return_sequences=True, go_backwards=True),
        "steps",
        lambda m: m[:, ::-1],
        "uses, reverses",
        Keras("hands on the mask unreversed", same),
    ),
    Row(
        lambda f: f.layers.RNN([f.layers.LSTMCell(3), f.layers.GRUCell(H)], return_sequences=True),
        "steps",
        same,
        "uses, passes",
    ),
    Row(
        lambda f: f.layers.Bidirectional(f.layers.RNN(f.layers.GRUCell(H), return_sequences=True)),
        "steps",
        same,
        "uses, passes",
    ),
    *(
        Row(
            lambda f, mode=mode: f.layers.Bidirectional(f.layers.LSTM(H, return_sequences=True), merge_mode=mode),
            "steps",
            lambda m, mode=mode: m if mode else [m, m],
            "uses, passes",
        )
        for mode in ("concat", "sum", "mul", "ave", None)
    ),
    *(
        Row(lambda f, mode=mode: f.layers.Bidirectional(f.layers.GRU(H), merge_mode=mode), "empty", USED, "uses, ends")
        for mode in ("concat", "sum", "mul", "ave", None)
    ),
    Row(
        lambda f: f.layers.Bidirectional(f.layers.GRU(H, return_sequences=True, return_state=True)),
        "steps",
        lambda m: [m, None, None],
        "uses, passes",
    ),
    # ---- over time
    Row(lambda f: f.layers.GlobalAveragePooling1D(), "steps", USED, "uses, ends"),
    Row(
        lambda f: f.layers.GlobalAveragePooling1D(keepdims=True),
        "empty",
        USED,
        "uses, ends",
        Keras(
            "gives NaN for an empty row", USED, lambda layer, y, x: np.where(x.mask.any(axis=1)[:, None, None], y, 0)
        ),
    ),
    Row(
        lambda f: f.layers.GlobalMaxPooling1D(),
        "empty",
        USED,
        "uses, ends",
        Keras(
            "ignores the mask, and drops it with a warning",
            LOST,
            lambda layer, y, x: np.nan_to_num(
                [s[m].max(0, initial=-np.inf) for s, m in zip(*x, strict=True)], neginf=0
            ),
        ),
    ),
    Row(lambda f: f.layers.Conv1D(2, 3, padding="same"), "steps", same, "uses, passes", KEEPS),
    Row(lambda f: f.layers.Conv1D(2, 3, padding="causal"), "steps", same, "uses, passes", KEEPS),
    Row(lambda f: f.layers.Conv1D(2, 2), "steps", lambda m: m[:, 1:] & m[:, :-1], "uses, changes", KEEPS),
    Row(
        lambda f: f.layers.Conv1D(2, 2, strides=2, padding="causal"),
        "steps",
        lambda m: m[:, ::2],
        "uses, changes",
        KEEPS,
    ),
    Row(lambda f: f.layers.Cropping1D((1, 2)), "steps", lambda m: m[:, 1:-2], "changes", KEEPS, ragged=False),
    Row(
        lambda f: f.layers.ZeroPadding1D((1, 2)),
        "steps",
        lambda m: np.pad(m, [(0, 0), (1, 2)]),
        "changes",
        KEEPS,
        ragged=False,
    ),
    Row(lambda f: f.layers.UpSampling1D(2), "steps", lambda m: np.repeat(m, 2, axis=1), "changes", KEEPS, ragged=False),
    Row(
        lambda f: f.layers.Softmax(axis=1),
        "steps",
        same,
        "uses, passes",
        Keras("fails under a mask (B,T)", FAILS, lambda layer, y, x: softmax(x.values, 1, x.mask[..., None])),
    ),
    Row(
        lambda f: f.layers.Softmax(),
        "steps",
        same,
        "uses, passes",
        Keras("fails under a mask (B,T)", FAILS, lambda layer, y, x: softmax(x.values, -1, True)),
    ),
    # ---- other shapes
    Row(lambda f: f.layers.Flatten(), "steps", LOST, "drops", ragged=False),
    Row(lambda f: f.layers.Flatten(), "rows", same, "passes", KEEPS),
    Row(lambda f: f.layers.Reshape((-1, 2, 3)), "steps", same, "passes", KEEPS),
    Row(lambda f: f.layers.Reshape((-1, 3)), "steps", LOST, "drops", ragged=False),
    Row(lambda f: f.layers.Permute((1, 3, 2)), "pictures", same, "passes", KEEPS),
    Row(lambda f: f.layers.Permute((1, 3, 2)), "words", LOST, "drops"),
    Row(lambda f: f.layers.Permute((2, 1)), "steps", LOST, "drops", ragged=False),
    Row(lambda f: f.layers.RepeatVector(3), "rows", LOST, "drops"),
    Row(lambda f: f.layers.RepeatLike(), "vector steps", of_second, "passes", OURS_ALONE),
    Row(lambda f: f.layers.RepeatLike(), "rows steps", of_second, "passes", OURS_ALONE, warns=True),
    # ---- several inputs
    *(
        row
        for name in ELEMENTWISE
        for row in (
            Row(lambda f, name=name: getattr(f.layers, name)(), "steps other", either, "changes"),
            Row(lambda f, name=name: getattr(f.layers, name)(), "empty empty", same, "changes"),
            Row(lambda f, name=name: getattr(f.layers, name)(), "steps plain", LOST, "drops", SPEAKS),
            Row(lambda f, name=name: getattr(f.layers, name)(), "plain steps", LOST, "drops", SPEAKS),
            Row(lambda f, name=name: getattr(f.layers, name)(), "steps vector", same, "changes", SPEAKS, ragged=False),
            Row(
                lambda f, name=name: getattr(f.layers, name)(),
                "steps rows",
                same,
                "changes",
                Keras("fails", FAILS),
                warns=True,
                ragged=False,
            ),
        )
    ),
    Row(lambda f: f.layers.Concatenate(), "steps other", either, "changes"),
    Row(lambda f: f.layers.Concatenate(), "steps plain", LOST, "drops", Keras("un-masks all steps", all_true)),
    Row(lambda f: f.layers.Concatenate(axis=1), "steps other", lambda a, b: np.hstack([a, b]), "changes"),
    Row(lambda f: f.layers.Concatenate(axis=1), "steps plain", lambda a, _: np.hstack([a, a | True]), "changes"),
    Row(lambda f: f.layers.Dot(1), "steps other", USED, "uses, ends", ragged=False),
    Row(lambda f: f.layers.Dot(2), "steps other", LOST, "drops", SPEAKS, ragged=False),
    Row(lambda f: f.layers.Dot((2, 1)), "steps vector", LOST, "drops", SPEAKS, ragged=False),
    *(
        row
        for name in ("Attention", "AdditiveAttention")
        for row in (
            Row(lambda f, name=name: getattr(f.layers, name)(), "steps other", same, "uses, passes"),
            Row(lambda f, name=name: getattr(f.layers, name)(), "plain steps", no_mask, "uses, passes"),
            Row(lambda f, name=name: getattr(f.layers, name)(), "other plain", same, "uses, passes"),
            Row(lambda f, name=name: getattr(f.layers, name)(), "other steps plain", same, "uses, passes"),
            Row(
                lambda f, name=name: getattr(f.layers, name)(),
                "steps empty",
                same,
                "uses, passes",
                Keras(
                    "averages masked values where there are no others",
                    same,
                    lambda layer, y, q, v: np.where(v.mask.any(axis=1)[:, None, None], y, 0),
                ),
            ),
        )
    ),
    # ---- what it is told
    Row(lambda f: f.layers.Lambda(scale), "steps", LOST, "drops", ragged=False),
    Row(lambda f: f.layers.Lambda(scale, mask=lambda x, mask: mask), "steps", same, "changes", ragged=False),
    Row(lambda f: f.layers.Lambda(scale, mask=RIGHT), "steps", lambda m: RIGHT, "changes", ragged=False),
    Row(lambda f: own(f), "steps", LOST, "drops", ragged=False),
    Row(lambda f: own(f, call=lambda self, inputs, mask=None: inputs * 2.0), "steps", LOST, "drops", ragged=False),
    Row(lambda f: own(f, supports_masking=True), "steps", same, "passes", ragged=False),
    Row(
        lambda f: own(
            f,
            call=lambda self, inputs: inputs[:, ::2],
            compute_mask=lambda self, inputs, mask=None: None if mask is None else mask[:, ::2],
        ),
        "steps",
        lambda m: m[:, ::2],
        "changes",
        ragged=False,
    ),
    # ---- layers and models as layers
    Row(block, "steps", same, "as its layers", WARNS, ragged=False),
    Row(chain, "steps", same, "as its layers", WARNS),
    Row(forks, "steps", lambda m: [m, None, m], "as its layers", Keras(WARNS.does, lambda m: [m, None, m], warns=True)),
]


def without_zeros(layer):
    """Keras' layer, whose outputs are no zeros at masked steps any more."""
    layer.zero_output_for_mask = False
    return layer
