"""Attention and AdditiveAttention."""

import numpy as np

from fastmask import initializers
from fastmask.layers.base import Layer
from fastmask.layers.dropout import check_rate, dropout_factors
from fastmask.layers.masked import with_mask
from fastmask.layers.registry import register_serializable
from fastmask.layers.structure import differ
from fastmask.ops.attention import attention_backward, attention_forward, attention_scores
from fastmask.ragged import Ragged

SCORE_MODES = ("dot", "concat")


@register_serializable(package=None)
class Attention(Layer):
    """For every query the mean of the values, weighted by the softmax of its scores with their keys (Luong).

        score = scale q · k                                  score_mode="dot"
        score = w sum over d of tanh(scale (q[d] + k[d]))    score_mode="concat"

    Parameters
    ----------
    use_scale : bool
        Whether there is a scale to learn; otherwise it is 1.
    score_mode : "dot" or "concat"
    dropout : float
        In training, share of the weights of values that are dropped.
    seed : int, optional
        For dropout.

    Notes
    -----
    Called with a list: [query (B,Tq,D), value (B,Tv,V)], whose value is the key, too (V = D), or [query, value, key
    (B,Tv,D)] -> (B,Tq,V). Query, or value and key, may be Ragged. Call arguments: mask=, a list for the inputs, None
    where one has none; return_attention_scores=True: also what each value counted for each query, (B,Tq,Tv);
    use_causal_mask=True: a query sees the values up to its own step only; training=. Weights: scale () with use_scale,
    then concat_score_weight () with score_mode="concat".

    Masked values count nothing and are not read: neither they nor their number change a bit of the outputs. The outputs
    are 0 at masked queries, and carry the mask of the query.

    Deliberate differences from Keras 3: where a query sees no valid value the output is 0 (Keras: a mean of the masked
    is masked); a value whose key is masked is masked, too (Keras ignores the mask of the key); the scores of a masked
    query are 0 (Keras: the softmax of what stands there).

    Examples
    --------
    >>> x = np.array([[[1.0, 0.0], [1.0, 0.0], [7.0, 7.0]]])
    >>> y = Attention()([x, x], mask=[None, [[True, True, False]]])
    >>> y.tolist()
    [[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]
    """

    supports_ragged = True
    _lean = True
    _makes_mask = False
    _no_stream = "every step of the query looks at all steps of the value"

    def __init__(self, use_scale=False, score_mode="dot", dropout=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        if score_mode not in SCORE_MODES:
            raise ValueError(f"score_mode: expected one of {', '.join(SCORE_MODES)}, received {score_mode!r}")
        self.use_scale = bool(use_scale)
        self.score_mode = score_mode
        self.dropout = check_rate(dropout, "dropout")
        self.seed = initializers.check_seed(seed)
        self._generator = initializers.new_generator(seed)
        self.scale = self.concat_score_weight = None

    def build(self, input_shape):
        self.check_input_shape(input_shape)
        if self.use_scale:
            self.scale = self.add_weight((), "ones", name="scale")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight((), "ones", name="concat_score_weight")

    def _score(self, D):
        """(weight (D,) of additive scores or None, scale or None), as the op takes them: copies, kept for backward."""
        scale = None if self.scale is None else self.scale.numpy()
        if self.concat_score_weight is None:
            return None, scale
        return np.full(D, self.concat_score_weight.value), scale

    def _add_score_gradients(self, gradients):
        if self.scale is not None:
            self.add_gradient(self.scale, gradients.scale)
        if self.concat_score_weight is not None:
            self.add_gradient(self.concat_score_weight, gradients.weight.sum())

    # ---- forward and backward ---------------------------------------------------------------------------------------
    def call(self, inputs, mask=None, training=False, return_attention_scores=False, use_causal_mask=False):
        self.check_input_shape([x.shape for x in inputs] if isinstance(inputs, list) else inputs.shape)
        if return_attention_scores and any(isinstance(x, Ragged) for x in inputs):
            raise ValueError(f"{self.name}: return_attention_scores: expected False for Ragged inputs, received True")
        query_mask, value_mask, key_mask = (None, None, None) if mask is None else [*mask, None][:3]
        weight, scale = self._score(inputs[0].shape[-1])
        outputs, tape = attention_forward(
            *inputs,
            weight=weight,
            scale=scale,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            causal=use_causal_mask,
            dropout=self._dropout_factors if training and self.dropout else None,
        )
        if training:
            self.saved = tape, return_attention_scores
        if not return_attention_scores:
            return outputs
        return outputs if query_mask is None else with_mask(outputs, query_mask), attention_scores(tape)

    def _dropout_factors(self, n):
        return dropout_factors(self._generator, self.dropout, (n,), self._dtype)

    def backward(self, grad):
        """grad: as the outputs; with return_attention_scores (d_outputs, d_scores), None where nothing arrives."""
        tape, with_scores = self.saved
        d_outputs, d_scores = (grad, None) if grad is None or not with_scores else grad
        gradients = attention_backward(tape, d_outputs, d_scores)
        self._add_score_gradients(gradients)
        return [gradients.query, gradients.value] + ([] if gradients.key is None else [gradients.key])

    # ---- masks and shapes -------------------------------------------------------------------------------------------
    def _as_masks(self, mask, inputs):
        """As in Keras, the mask of the key may be left out."""
        if isinstance(mask, (list, tuple)) and len(mask) == 2 and len(inputs) == 3:
            mask = [*mask, None]
        return super()._as_masks(mask, inputs)

    def compute_mask(self, inputs, mask=None):
        """The mask of the query."""
        return None if mask is None else mask[0]

    def check_input_shape(self, shape):
        """ValueError if it is not a list of the shapes of query, value and perhaps key that fit together."""
        if not isinstance(shape, list) or not 2 <= len(shape) <= 3:
            raise ValueError(
                f"{self.name}: inputs: expected a list [query, value] or [query, value, key], received "
                f"{'shape ' + str(shape) if isinstance(shape, tuple) else str(len(shape)) + ' inputs'}"
            )
        query, value, key = (*shape, shape[1])[:3]
        if not all(len(s) == 3 for s in shape) or differ(query[2], key[2]) or differ(value[1], key[1]):
            raise ValueError(
                f"{self.name}: inputs: expected query (B,Tq,D), value (B,Tv,V) and key (B,Tv,D), by default the value, "
                f"received {', '.join(map(str, shape))}"
            )

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:2], input_shape[1][2])

    def compute_output_spec(self, inputs, mask_shape, options):
        shape, mask = super().compute_output_spec(inputs, mask_shape, options)
        if not options.get("return_attention_scores"):
            return shape, mask
        (B, Tq, _), (_, Tv, _) = inputs[0].shape, inputs[1].shape
        return [shape, (B, Tq, Tv)], [mask, None]

    def mask_role(self):
        return "uses, passes"

    def get_config(self):
        return {
            **super().get_config(),
            "use_scale": self.use_scale,
            "score_mode": self.score_mode,
            "dropout": self.dropout,
            "seed": self.seed,
        }


@register_serializable(package=None)
class AdditiveAttention(Attention):
    """Attention with additive scores (Bahdanau).

        score = sum over d of scale[d] tanh(q[d] + k[d])

    Parameters
    ----------
    use_scale : bool
        Whether scale (D,) is learned; otherwise it is 1.
    dropout : float
        As Attention's, like `seed`.

    Notes
    -----
    As Attention. Weights: scale (D,) with use_scale.
    """

    def __init__(self, use_scale=True, dropout=0.0, **kwargs):
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    def build(self, input_shape):
        self.check_input_shape(input_shape)
        if self.use_scale:
            if input_shape[0][-1] is None:
                raise ValueError(f"{self.name}: inputs: expected a query (B,Tq,D) with a known D")
            self.scale = self.add_weight((int(input_shape[0][-1]),), "glorot_uniform", name="scale")

    def _score(self, D):
        return np.ones(D, self._dtype) if self.scale is None else self.scale.numpy(), None

    def _add_score_gradients(self, gradients):
        if self.scale is not None:
            self.add_gradient(self.scale, gradients.weight)

    def check_input_shape(self, shape):
        """ValueError if shapes do not fit together or to the scale."""
        super().check_input_shape(shape)
        if self.scale is not None and shape[0][-1] != self.scale.shape[0]:
            raise ValueError(f"{self.name}: inputs: expected a query (B,Tq,{self.scale.shape[0]}), received {shape[0]}")

    def get_config(self):
        config = super().get_config()
        del config["score_mode"]
        return config
