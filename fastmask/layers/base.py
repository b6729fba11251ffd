"""Layer: weights, masks, training calls and their backward. The base of every layer and model."""

import functools
import inspect
import warnings

import numpy as np

from fastmask import constraints, initializers, regularizers
from fastmask.checks import check_config, check_dtype, check_list, check_name, empty, unknown_argument
from fastmask.layers import managed, symbolic
from fastmask.layers.calls import Call, LatestCall, shapes_of, stack
from fastmask.layers.masked import as_mask, mask_of, plain, refuse_numpy_ma, with_mask
from fastmask.layers.outgoing import masks_of_arrays, masks_of_shapes, warn_dropped
from fastmask.layers.registry import LayerTable, auto_name
from fastmask.layers.streams import Streamed
from fastmask.layers.structure import attach, is_symbolic, map_inputs, map_shape, none_if_all_none
from fastmask.ops.mask import check_numbers
from fastmask.ragged import Ragged
from fastmask.variable import RowsGradient, Variable

DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
BOOL = np.dtype(bool)
# arguments of Keras' layers that may be passed if they ask for nothing
NOT_SUPPORTED = (
    *("activity_regularizer", "kernel_regularizer", "recurrent_regularizer", "bias_regularizer"),
    *("kernel_constraint", "recurrent_constraint", "bias_constraint", "lora_rank", "quantization_config", "unroll"),
)


class Layer(Streamed):
    """A function with weights, that knows masks and its own derivative.

    Parameters
    ----------
    name : str, optional
        Default: the class name in snake_case, with a number from the second on.
    dtype : "float32" or "float64"
        Of the weights and the computation; inputs are cast to it.
    trainable : bool
        Whether optimizers change the weights.

    Notes
    -----
    A layer of one's own:

    - ``__init__(...)`` calls ``super().__init__(**kwargs)``. Layers set as attributes (or lists of them) are
      sub-layers.
    - ``build(input_shape)`` makes weights with ``self.add_weight(...)``; it runs at the first call. Shapes have None
      for what may vary: (None, None, 12).
    - ``call(inputs, mask=None, training=False)`` computes. Leave out `mask` or `training` if it needs none.
    - ``backward(grad)`` takes the gradient of the outputs, hands weight gradients to ``self.add_gradient(weight, g)``
      and returns the gradient of the inputs. It may read whatever `call` put into ``self.saved`` (an object of that
      very call: ``self.saved.x = x``, or ``self.saved = x``). A sub-layer is gone back through by its own ``backward``,
      latest call first. A layer without `backward` works for inference.
    - masks: ``supports_masking = True`` hands the mask on as it is, ``compute_mask(inputs, mask)`` makes another. A
      layer that does neither drops it, with a MaskDroppedWarning. If there are layers inside, the inputs of `call`
      carry their mask, so that these use it and the outputs carry what is left of it (as in Keras, which warns, too).
    - ``streams = True`` if each step of the outputs depends on that step of the inputs alone: then it works in
      `Model.stream` (see `Streamed`).

    Called by hand under a mask (``mask=``, or inputs that carry one) a layer returns arrays that carry the outgoing
    mask as ``y.mask``. Inside models masks travel by themselves.
    """

    supports_masking = False
    supports_ragged = False  # whether call takes a Ragged
    _autocast = True  # inputs are cast to the layer's dtype: floats; integers, too, if ...
    _casts_integers = False  # ids stay ids
    _single_input = False  # a list of arrays is no list of inputs
    _lean = False  # inference needs no Call: `call` sets self.saved and calls sub-layers in training only
    _makes_mask = False  # compute_mask may give a mask though none came in
    _takes_mask = _takes_training = False  # whether call has these arguments
    _inputs_carry = False  # whether the inputs of call carry their masks, for the layers inside it to hear of
    _has_compute_mask = False  # whether compute_mask is that of a class of its own ...
    _compute_mask_is_trusted = False  # ... and its masks fit
    _takes_plain_mask = False  # whether `__call__` can pass a mask straight to `call` and `compute_mask`

    # ---- making -----------------------------------------------------------------------------------------------------
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own, is_ours = cls.__dict__, cls.__module__.partition(".")[0] == "fastmask"
        if "call" in own:
            parameters = inspect.signature(own["call"]).parameters
            cls._takes_mask, cls._takes_training = "mask" in parameters, "training" in parameters
            cls._inputs_carry = not is_ours
        if is_ours and Layer in cls.__bases__:
            cls._casts_integers = own.get("_casts_integers", True)  # its layers compute in floats
        if "compute_mask" in own:
            cls._has_compute_mask = own["compute_mask"] is not Layer.compute_mask
            if cls._has_compute_mask:
                cls.compute_mask = managed.compute_mask(own["compute_mask"])
                cls._compute_mask_is_trusted = own.get("_compute_mask_is_trusted", is_ours)
            cls.supports_masking = own.get("supports_masking", True)
            cls._makes_mask = own.get("_makes_mask", True)
        cls._takes_plain_mask = cls._takes_mask and cls._compute_mask_is_trusted and not cls._inputs_carry
        if "build" in own:
            cls.build = managed.build(own["build"])
        if "backward" in own:
            cls.backward = managed.backward(own["backward"])

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)  # what must be there even if __init__ forgets super().__init__()
        self.name = None
        self.built = False
        self._building = False
        self._trainable = True
        self._dtype = DTYPES["float32"]
        self._own_weights = []
        self._nodes = []  # its calls on symbolic tensors
        self._latest = LatestCall()
        self._built_shape = None  # once built: of what inputs, for saving
        self._plain_dtype = None  # once built: the dtype of arrays that `__call__` can pass straight to `call`
        return self

    def __init__(self, name=None, dtype="float32", trainable=True, **refused):
        for key, value in refused.items():
            if key not in NOT_SUPPORTED:
                raise unknown_argument(type(self), key)
            if value:
                raise ValueError(
                    f"{key}: not supported by {type(self).__name__} yet, expected None, received {value!r}"
                )
        dtype = check_dtype("float32" if dtype is None else dtype)
        self.name = check_name(name) or auto_name(type(self))
        self._dtype = DTYPES[dtype]
        self.trainable = trainable

    @property
    def dtype(self):
        return self._dtype.name

    def build(self, input_shape):
        """Make the weights; input_shape is (None, ..., F), a list of such for several inputs. Runs once."""

    def _build_for(self, inputs):
        self._build_shape(
            map_inputs(lambda x: (None, *np.shape(x)[1:]) if not isinstance(x, Ragged) else x.shape, inputs)
        )

    def _build_shape(self, shape):
        if self.built:
            return
        self.name = self.name or auto_name(type(self))
        self.build(shape)
        managed.finish_build(self, shape)

    def _set_built(self, shape):
        self.built, self._built_shape = True, shape
        if self._lean and not self._makes_mask:
            self._plain_dtype = self._dtype

    def add_weight(
        self, shape=None, initializer=None, dtype=None, trainable=True, regularizer=None, constraint=None, name=None
    ):
        """A new weight of this layer.

        Parameters
        ----------
        shape : tuple of int; () by default
        initializer : as `initializers.get` takes; "glorot_uniform" by default
        dtype : default: the layer's
        trainable : bool
        regularizer : as `regularizers.get` takes, optional
            Its penalty is added to the loss in training.
        constraint : as `constraints.get` takes, optional
            What the weight is put through after each step of training.
        name : str, optional

        Returns
        -------
        Variable
        """
        regularizer, constraint = regularizers.get(regularizer), constraints.get(constraint)
        check_name(name)
        shape = () if shape is None else initializers.check_shape(shape)
        dtype = np.dtype(check_dtype(dtype or self._dtype))
        table = LayerTable.in_use()
        if table is not None and table.new_weight is not None:  # a saved one takes its place
            value = table.new_weight(self, name, shape, dtype)
        else:
            empty(f"{self.name}: {name or 'weight'}", shape, dtype)
            value = initializers.get(initializer or "glorot_uniform")(shape, dtype)
        if np.shape(value) != shape:
            raise ValueError(f"initializer: expected a value of shape {shape}, received {np.shape(value)}")
        weight = Variable(value, name or f"weight_{len(self._own_weights)}", trainable, dtype)
        weight.regularizer, weight.constraint = regularizer, constraint
        self._own_weights.append(weight)
        return weight

    # ---- weights ----------------------------------------------------------------------------------------------------
    @property
    def trainable(self):
        """Whether optimizers change the weights; setting it sets it for all sub-layers."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        for layer in self._sub_layers():
            layer.trainable = value

    def _sub_layers(self):
        """Layers among the attributes, in the order they were set, each once."""
        return list({id(layer): layer for layer in self._attributes(Layer) if layer is not self}.values())

    def _all_sub_layers(self):
        """The sub-layers, theirs, and so on, each once."""
        found, waiting = {}, [self]
        while waiting:
            for layer in waiting.pop()._sub_layers():
                if id(layer) not in found:
                    found[id(layer)] = layer
                    waiting.append(layer)
        return list(found.values())

    def _attributes(self, cls):
        """What is an instance of `cls` among the attributes and inside lists and tuples among them."""
        found = []
        for value in self.__dict__.values():
            if isinstance(value, cls):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found += [item for item in value if isinstance(item, cls)]
        return found

    def _collect(self, trainable=None, seen=None):
        """Own weights, then those of sub-layers; each once, and if `trainable`, only those that optimizers change."""
        seen = set() if seen is None else seen
        if id(self) in seen or (trainable and not self._trainable):
            return []
        seen.add(id(self))
        own = self._own_weights + self._attributes(Variable)
        weights = []
        for variable in [v for v in own if v.trainable] + [v for v in own if not v.trainable and not trainable]:
            if id(variable) not in seen:
                seen.add(id(variable))
                weights.append(variable)
        for layer in self._sub_layers():
            weights += layer._collect(trainable, seen)
        return weights

    @property
    def weights(self):
        """All Variables: own ones (trainable first), then those of the sub-layers."""
        return self._collect()

    variables = weights

    @property
    def trainable_weights(self):
        return self._collect(trainable=True)

    trainable_variables = trainable_weights

    def _is_trained(self):
        """Whether there are `trainable_weights`; asked in each step of training, so mostly without collecting them."""
        own = self._trainable and any(v.trainable for v in self._own_weights)
        return own or bool(self.trainable_weights)

    @property
    def non_trainable_weights(self):
        changed = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in changed]

    def count_params(self):
        """Number of elements in all weights."""
        return sum(v.size for v in self.weights)

    def get_weights(self):
        """Copies of all weights, in Keras' order."""
        return [v.numpy() for v in self.weights]

    def set_weights(self, weights):
        """Replace all weights.

        Parameters
        ----------
        weights : list of array-like
            As `get_weights` gives them.

        Raises
        ------
        ValueError
            Wrong number or shape, NaN or infinity. No weight is changed then.
        TypeError
            Not numbers.
        """
        own, weights = self.weights, check_list(weights, "weights")
        if len(weights) != len(own):
            hint = "" if self.built else " (it is not built yet: call it, or build it with the shape of its input)"
            raise ValueError(f"weights: expected {len(own)} arrays for {self.name}{hint}, received {len(weights)}")
        arrays = [_checked_weight(w, v, self.name) for w, v in zip(weights, own, strict=True)]
        for variable, array in zip(own, arrays, strict=True):
            variable.assign(array)

    # ---- calling ----------------------------------------------------------------------------------------------------
    def __call__(self, inputs, *args, mask=None, training=None, **kwargs):
        if (  # nothing to cast, no training, a mask that fits if any: the shortest way
            type(inputs) is np.ndarray
            and inputs.dtype is self._plain_dtype
            and not training
            and not args
            and (training is False or not stack.calls)
        ):
            if mask is None:
                return self.call(inputs, **kwargs)
            if (
                self._takes_plain_mask
                and type(mask) is np.ndarray
                and mask.dtype is BOOL
                and mask.shape == inputs.shape[:2]
                and mask.flags.c_contiguous
            ):
                outputs = self.call(inputs, mask=mask, **kwargs) if kwargs else self.call(inputs, mask=mask)
                if type(outputs) is np.ndarray:
                    return with_mask(outputs, self.compute_mask(inputs, mask))
                return attach(*self._with_mask(inputs, mask, outputs))
        if type(inputs) is not np.ndarray and is_symbolic(inputs):
            return symbolic.call(self, inputs, args, mask, training, kwargs)
        inputs, mask = self._as_arguments(inputs, mask)
        if training is None:
            training = bool(stack.calls) and bool(stack.calls[-1].training)
        outputs, mask = self._run(inputs, mask, bool(training), args, kwargs)
        return attach(outputs, mask)

    def _as_arguments(self, inputs, given):
        """(inputs, mask) as `_run` takes them: plain, of the layer's dtype, and the mask given or that they carry."""
        if type(inputs) is np.ndarray:  # the shortest way
            inputs = self._as_input(inputs)
            return inputs, None if given is None else self._as_masks(given, inputs)
        carried = self._carried_mask(inputs)
        inputs = map_inputs(self._as_input, inputs) if self._is_list(inputs) else self._as_input(inputs)
        return inputs, carried if given is None else self._as_masks(given, inputs)

    def _is_list(self, inputs):
        """Whether inputs is a list of several inputs, not one array written as a list."""
        return (
            not self._single_input
            and isinstance(inputs, (list, tuple))
            and len(inputs) > 0
            and all(isinstance(x, (np.ndarray, Ragged, Variable)) for x in inputs)
        )

    def _as_input(self, x):
        """x as a plain array or Ragged of the layer's dtype."""
        if type(x) is np.ndarray and x.dtype is self._dtype:
            return x
        if isinstance(x, Ragged):
            if not self.supports_ragged:
                raise TypeError(
                    f"{self.name}: inputs: expected an array, as {type(self).__name__} has no meaning for a Ragged "
                    "(use r.to_padded()), received a Ragged"
                )
            if self._autocast and x.dtype != self._dtype and (self._casts_integers or x.dtype.kind == "f"):
                return x.with_values(self._cast(x.values))
            return plain(x)
        refuse_numpy_ma(x, f"{self.name}: inputs")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(
                f"{self.name}: inputs: expected an array, received rows of different lengths: use Ragged.from_list"
            ) from error
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{self.name}: inputs: expected numbers, received dtype {x.dtype}")
        if not x.ndim:
            raise ValueError(f"{self.name}: inputs: expected an array with rows, received a single number")
        return self._cast(x) if self._autocast and (self._casts_integers or x.dtype.kind == "f") else x

    def _cast(self, x):
        return x if x.dtype == self._dtype else x.astype(self._dtype)

    def _carried_mask(self, inputs):
        """The mask that travels with the inputs, a list for several of them; None if there is none at all."""
        return none_if_all_none(map_inputs(mask_of, inputs)) if self._is_list(inputs) else mask_of(inputs)

    def _as_masks(self, mask, inputs):
        """What is given as mask= as arrays that fit the inputs; None if that means no mask."""
        if isinstance(inputs, list):
            if not isinstance(mask, (list, tuple)) or len(mask) != len(inputs):
                raise ValueError(
                    f"mask: expected a list of {len(inputs)} masks or Nones, one for each input, received {mask!r}"
                )
            return none_if_all_none([None if m is None else as_mask(m, x) for m, x in zip(mask, inputs, strict=True)])
        return as_mask(mask, inputs)

    def _run(self, inputs, mask, training, args=(), kwargs=None):
        """(outputs, their mask) of checked inputs; masks here are arrays of their own."""
        if not self.built:
            self._build_for(inputs)
        kwargs = {} if kwargs is None else kwargs
        if self._lean and not training:
            return self._call_and_mask(inputs, mask, False, args, kwargs)
        with Call(self, training) as call:
            result = self._call_and_mask(inputs, mask, training, args, kwargs)
        if training:
            call.output_shapes = shapes_of(result[0])
            if stack.calls:
                stack.calls[-1].inner.setdefault(self, []).append(call)
            else:
                self._latest.call = call
        return result

    def _call_and_mask(self, inputs, mask, training, args, kwargs):
        if self._takes_mask:
            kwargs = {**kwargs, "mask": mask}
        if self._takes_training:
            kwargs = {**kwargs, "training": training}
        is_read_inside = mask is not None and self._inputs_carry and self._sub_layers()
        outputs = self.call(attach(inputs, mask) if is_read_inside else inputs, *args, **kwargs)
        return self._with_mask(inputs, mask, outputs)

    def _with_mask(self, inputs, mask, outputs):
        """(outputs, their mask) from what `call` has made of the inputs and theirs."""
        if type(outputs) is type(inputs) is np.ndarray and self._compute_mask_is_trusted:  # the shortest way
            return outputs, None if mask is None and not self._makes_mask else self.compute_mask(inputs, mask)
        several = isinstance(outputs, (list, tuple))
        made = none_if_all_none([mask_of(y) for y in outputs]) if several else mask_of(outputs)
        if made is not None:  # by a layer inside
            outputs = type(outputs)(map(plain, outputs)) if several else plain(outputs)
            if self._compute_mask_is_trusted or not (self._has_compute_mask and several):
                return outputs, made
        elif mask is None and not self._makes_mask:
            return outputs, None
        if self.supports_masking:
            no_mask = [None] * len(inputs) if isinstance(inputs, list) else None
            mask = self.compute_mask(inputs, no_mask if mask is None else mask)
            mask = list(mask) if isinstance(mask, tuple) else mask
            computed = masks_of_arrays(self, mask, list(outputs) if several else outputs, inputs)
            if made is None or computed is None:
                return outputs, computed if made is None else made
            return outputs, [c if m is None else m for m, c in zip(made, computed, strict=True)]
        if mask is not None:
            self._warn_dropped()
        return outputs, None

    def _warn_dropped(self):
        warn_dropped(
            self,
            "does not hand the mask on, so it is lost here. Pass mask= to a later layer by hand, or give the class "
            "supports_masking = True or compute_mask.",
        )

    def _mask_does_not_fit(self, mask_shape, output_shape):
        """The mask of an output that has not the steps of the mask which is handed on: none."""
        warn_dropped(
            self,
            f"hands on the mask as it is, of shape {mask_shape}, but that does not fit its outputs, of shape "
            f"{output_shape}, so it is lost here: give it a compute_mask (which returns None if the mask is used up).",
        )

    def call(self, inputs):
        """The computation."""
        raise NotImplementedError(f"{type(self).__name__} has no call")

    def compute_mask(self, inputs, mask=None):
        """The mask of the outputs; here the one that came in. Of symbolic inputs it is symbolic."""
        if mask is not None:
            return mask
        return map_inputs(lambda x: x.mask, inputs) if is_symbolic(inputs) else self._carried_mask(inputs)

    def compute_mask_shape(self, input_shape, mask_shape):
        """Shape of the mask of the outputs, None where there is none; a list for several outputs.

        mask_shape: that of the mask of the inputs, None or a list likewise. Unless a class knows better, it is found by
        trying `compute_mask` on zeros.
        """
        if mask_shape is None and not self._makes_mask:
            return None
        if self._has_compute_mask:
            return symbolic.try_compute_mask(self, input_shape, mask_shape)
        if not self.supports_masking:
            self._warn_dropped()
            return None
        return mask_shape

    def check_input_shape(self, shape):
        """ValueError if inputs of that shape do not fit the weights; here nothing is known."""

    def compute_output_shape(self, input_shape):
        """Shape of the outputs, None for what varies. Unless a class knows better, it is found by trying."""
        inputs = map_shape(lambda s: symbolic.SymbolicTensor(s, self.dtype, "input"), input_shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return symbolic.try_out(self, inputs, None, {})[0]

    def compute_output_spec(self, inputs, mask_shape, options):
        """(shapes, shapes of the masks) of the outputs of a call on symbolic inputs with these options."""
        own = type(self)
        finds_masks = self._has_compute_mask or not self._sub_layers()
        if own.compute_output_shape is not Layer.compute_output_shape and finds_masks:
            shape = map_inputs(lambda x: x.shape, inputs)
            outputs, masks = self.compute_output_shape(shape), self.compute_mask_shape(shape, mask_shape)
            return outputs, masks_of_shapes(self, masks, outputs, shape)
        return symbolic.try_out(self, inputs, mask_shape, options)

    # ---- in a model -------------------------------------------------------------------------------------------------
    @property
    def input(self):
        """The symbolic input of the layer's only call in a model."""
        return self._only_node().inputs

    @property
    def output(self):
        """The symbolic output of the layer's only call in a model, as for `Model(model.input, layer.output)`."""
        return self._only_node().result

    def _only_node(self):
        if len(self._nodes) != 1:
            raise ValueError(
                f"{self.name}: expected a layer called once on symbolic tensors, it was {len(self._nodes)} times"
            )
        return self._nodes[0]

    # ---- going back -------------------------------------------------------------------------------------------------
    @property
    def saved(self):
        """What this training call keeps for its backward."""
        return self._current_call().saved

    @saved.setter
    def saved(self, value):
        self._current_call().saved = value

    def _current_call(self):
        call = stack.top
        if call is None or call.layer is not self:
            call = self._latest.call
        if call is None:
            raise ValueError(f"{self.name}.saved: expected a call with training=True, there is none")
        return call

    def backward(self, grad):
        """Gradient of the inputs from that of the outputs of the latest call with training=True, which is used up.

        `grad` has the structure of the outputs, None where nothing arrives. The weights' gradients are in `gradients`
        afterwards.
        """
        raise NotImplementedError(
            f"{self.name}: {type(self).__name__} has no backward(grad), so it works for inference only; give it one to "
            "train through it"
        )

    def _as_gradient(self, grad):
        """Gradients of the outputs, which may be several, as plain arrays and Ragged of the layer's dtype."""
        if grad is None or (type(grad) is np.ndarray and grad.dtype == self._dtype):
            return grad
        if isinstance(grad, (list, tuple)):
            return tuple(self._as_gradient(g) for g in grad)
        if isinstance(grad, Ragged):
            return plain(grad) if grad.dtype == self._dtype else grad.with_values(self._cast(grad.values))
        return self._cast(check_numbers(grad, f"{self.name}: grad"))

    def _take_call(self):
        """The call that backward goes back through: of those inside the call that is being gone back, else the
        latest."""
        outer = stack.top
        calls = outer.inner.get(self) if outer is not None else None
        if calls:
            return calls.pop(), functools.partial(calls.append)
        call = self._latest.call
        if call is None:
            raise ValueError(
                f"{self.name}: backward: expected a call with training=True before it (each is good for one backward)"
            )
        self._latest.call = None
        return call, functools.partial(setattr, self._latest, "call")

    def keyword_gradients(self):
        """Gradients of arrays that came as keywords of the call, from the latest backward in this thread: {"name":
        gradient}. A model asks for them where such an argument is one of its tensors."""
        return {}

    def add_gradient(self, weight, gradient):
        """Add an array or a RowsGradient to the gradient of one of this layer's weights; for use in `backward`."""
        if not isinstance(weight, Variable):
            raise TypeError(f"weight: expected a Variable, received {type(weight).__name__}")
        if not isinstance(gradient, RowsGradient):
            gradient = np.asarray(check_numbers(gradient, "gradient"), weight.dtype)
        if gradient.shape != weight.shape:
            raise ValueError(f"gradient: expected shape {weight.shape} for {weight.name}, received {gradient.shape}")
        if weight.trainable and self._trainable:
            weight.gradient = gradient if weight.gradient is None else weight.gradient + gradient

    @property
    def gradients(self):
        """Gradients of `trainable_weights` from the latest backward in this thread, in the same order.

        Zeros where none arrived.
        """
        weights = self.trainable_weights
        if weights and all(v.gradient is None for v in weights):
            raise ValueError(f"{self.name}.gradients: expected a backward before, in this thread")
        return [np.zeros(v.shape, v.dtype) if v.gradient is None else v.gradient for v in weights]

    # ---- configuration ----------------------------------------------------------------------------------------------
    def get_config(self):
        """The constructor's arguments. A class of one's own adds its own to ``super().get_config()``."""
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config):
        """A new layer of that configuration, without weights."""
        check_config(config)
        return cls(**config)

    @property
    def output_activation(self):
        """ "softmax" or "sigmoid" if the outputs are that of logits the layer can give, else None. A layer for which it
        is not None puts the logits of a training call into its Call and has `_run_with_logits(inputs, mask)`, giving
        (outputs, mask, logits)."""
        return None

    def mask_role(self):
        """What this layer does with a mask, in a word or two, for `summary`."""
        if self._has_compute_mask:
            return "changes"
        if self.supports_masking:
            return "uses, passes" if self._takes_mask else "passes"
        return "as its layers" if self._inputs_carry and self._sub_layers() else "drops"

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in ("_latest", "_packed", "_nodes")}

    def __setstate__(self, state):
        self.__dict__.update(state)  # __new__ has made the rest

    def __repr__(self):
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


# ---- weights --------------------------------------------------------------------------------------------------------
def _checked_weight(value, variable, layer_name):
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"weights: expected numbers for {layer_name}'s {variable.name}, received dtype {array.dtype}")
    if array.shape != variable.shape:
        raise ValueError(
            f"weights: expected shape {variable.shape} for {layer_name}'s {variable.name}, received {array.shape}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(variable.dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"weights: expected finite numbers for {layer_name}'s {variable.name}, received NaN or infinity"
        )
    return array
