"""Embedding."""

import warnings

import numpy as np

from fastmask import constraints, initializers, regularizers
from fastmask.layers.base import Layer
from fastmask.layers.registry import register_serializable
from fastmask.ops.embedding import embedding_backward, embedding_forward
from fastmask.ops.mask import align_mask, check_count, from_ids
from fastmask.ragged import Ragged


@register_serializable(package=None)
class Embedding(Layer):
    """Ids to vectors: y = embeddings[ids].

    Parameters
    ----------
    input_dim : int
        V, the number of ids: 0 ... V-1. With mask_zero, that of the words and one more.
    output_dim : int
        D, the length of a vector.
    embeddings_initializer : as `initializers.get` takes
    embeddings_regularizer : as `regularizers.get` takes, optional
    embeddings_constraint : as `constraints.get` takes, optional
    mask_zero : bool
        Whether steps with the id 0 are masked.
    weights : array (V,D), optional
        The initial embeddings, also as a list with that array.

    Notes
    -----
    ids (...) -> (..., D), the mask of the shape of the ids; embeddings (V,D). Ids are whole numbers of any dtype;
    floats are cut to whole numbers, but compared with 0 as they are: 0.7 is row 0 and not masked. Row 0 is a row like
    any other, also with mask_zero: the output at id 0 is ``embeddings[0]``, and it learns what arrives there.

    The gradient of the embeddings names the rows that were used (a `RowsGradient`): forward and backward cost what the
    steps of the batch cost, whatever the size of the vocabulary.

    Deliberate differences from Keras 3: a mask that comes in is combined with the layer's own by AND (Keras replaces
    it), and handed on without mask_zero; an id out of range raises ValueError (TensorFlow takes ids below 0 from the
    end), but not under a mask that comes in, where whatever is no id counts as 0. The gradients of an id that stands
    several times in a batch are added before Adam or RMSprop square them, as everywhere but in Keras 3 on TensorFlow.

    Examples
    --------
    >>> y = Embedding(3, 2, weights=[[0, 0], [1, 2], [3, 4]], mask_zero=True)([[2, 1, 0]])
    >>> y[0], y.mask
    (array([[3., 4.],
           [1., 2.],
           [0., 0.]], dtype=float32), array([[ True,  True, False]]))
    """

    supports_ragged = True
    _autocast = False  # ids stay what they are
    _single_input = True
    _lean = True
    streams = True

    def __init__(
        self,
        input_dim,
        output_dim,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        weights=None,
        **kwargs,
    ):
        if kwargs.pop("input_length", None) is not None:
            warnings.warn("input_length: as in Keras 3 it does nothing, leave it out", DeprecationWarning, stacklevel=2)
        super().__init__(**kwargs)
        self.input_dim = check_count(input_dim, "input_dim", minimum=1)
        self.output_dim = check_count(output_dim, "output_dim", minimum=1)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = bool(mask_zero)
        self.embeddings = None
        if weights is not None:
            self.build(None)
            self.set_weights(weights if isinstance(weights, list) and len(weights) == 1 else [weights])

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
            name="embeddings",
        )

    def compute_mask(self, inputs, mask=None):
        if not self.mask_zero:
            return mask
        inputs = self._as_input(inputs)
        own = from_ids(inputs.values if isinstance(inputs, Ragged) else inputs)
        return own if mask is None else own & align_mask(np.asarray(mask, bool), own.shape)

    def call(self, inputs, mask=None, training=False):
        self.check_input_shape(inputs.shape)
        outputs, tape = embedding_forward(inputs, self.embeddings.value, mask=mask, name=f"{self.name}: inputs")
        if training:
            self.saved = tape
        return outputs

    def backward(self, grad):
        if grad is not None and self.trainable:
            self.add_gradient(self.embeddings, embedding_backward(self.saved, self._as_gradient(grad)))
        return None  # ids have no gradient

    def check_input_shape(self, shape):
        if len(shape) < 1:
            raise ValueError(f"{self.name}: inputs: expected ids of shape (B,...), received a scalar")

    def compute_mask_shape(self, input_shape, mask_shape):
        return tuple(input_shape) if self.mask_zero else mask_shape

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
        }

    def mask_role(self):
        return "makes" if self.mask_zero else "passes"
