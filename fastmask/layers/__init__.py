"""Layers with Keras' names and arguments, and the masks that travel through them."""

from fastmask.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from fastmask.layers.attention import AdditiveAttention, Attention
from fastmask.layers.base import Layer
from fastmask.layers.bidirectional import Bidirectional
from fastmask.layers.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from fastmask.layers.convolution import Conv1D
from fastmask.layers.core import ApplyMask, Dense, Identity, Masking
from fastmask.layers.dropout import Dropout, GaussianNoise, SpatialDropout1D
from fastmask.layers.embedding import Embedding
from fastmask.layers.lambda_layer import Lambda
from fastmask.layers.merging import Add, Average, Concatenate, Dot, Maximum, Minimum, Multiply, Subtract
from fastmask.layers.normalization import BatchNormalization, LayerNormalization, UnitNormalization
from fastmask.layers.outgoing import MaskDroppedWarning
from fastmask.layers.pooling import GlobalAveragePooling1D, GlobalAvgPool1D, GlobalMaxPool1D, GlobalMaxPooling1D
from fastmask.layers.recurrent import GRU, LSTM, SimpleRNN
from fastmask.layers.registry import deserialize, register_serializable, serialize
from fastmask.layers.reshaping import (
    Cropping1D,
    Flatten,
    Permute,
    RepeatLike,
    RepeatVector,
    Reshape,
    UpSampling1D,
    ZeroPadding1D,
)
from fastmask.layers.rnn import RNN
from fastmask.layers.symbolic import Input
from fastmask.layers.time_distributed import TimeDistributed

__all__ = [
    "Activation",
    "Add",
    "AdditiveAttention",
    "ApplyMask",
    "Attention",
    "Average",
    "BatchNormalization",
    "Bidirectional",
    "Cell",
    "Concatenate",
    "Conv1D",
    "Cropping1D",
    "Dense",
    "Dot",
    "Dropout",
    "ELU",
    "Embedding",
    "Flatten",
    "GRU",
    "GRUCell",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "Identity",
    "Input",
    "LSTM",
    "LSTMCell",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "MaskDroppedWarning",
    "Masking",
    "Maximum",
    "Minimum",
    "Multiply",
    "PReLU",
    "Permute",
    "RNN",
    "ReLU",
    "RepeatLike",
    "RepeatVector",
    "Reshape",
    "SimpleRNN",
    "SimpleRNNCell",
    "Softmax",
    "SpatialDropout1D",
    "StackedRNNCells",
    "Subtract",
    "TimeDistributed",
    "UnitNormalization",
    "UpSampling1D",
    "ZeroPadding1D",
    "deserialize",
    "register_serializable",
    "serialize",
]
