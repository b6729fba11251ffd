"""Optimizers: SGD, RMSprop, Adam and AdamW with the formulas of Keras 3.

Updates are done in place, all weights in one pass of a kernel (`ops.optimizer`): a step makes no array of a weight's
size. Numbers that all elements share (Adam's bias correction, the norm of the gradients) are computed in float64; Keras
computes them in the weights' dtype, which for float32 makes its step at small t differ by up to 1e-4 of itself.
"""

import inspect
import math
import warnings

import numpy as np

from fastmask import schedules
from fastmask.checks import (
    check_config,
    check_flag,
    check_list,
    check_name,
    check_number,
    check_positive,
    unknown_argument,
)
from fastmask.ops.mask import check_numbers
from fastmask.ops.optimizer import Update, optimizer_update, square_sum
from fastmask.registry import Kind
from fastmask.variable import RowsGradient, Variable

NOT_SUPPORTED = ("use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor")


class Optimizer:
    """Base class of the optimizers: clipping, weight decay, learning rate and state.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of the number of steps taken that returns one, as those in `schedules`. Can be set at
        any time, but for a number in place of a function.
    weight_decay : float, optional
        If given, weights shrink by `weight_decay * learning_rate` of themselves before each update.
    clipnorm : float, optional
        Each gradient whose norm is larger is scaled down to that norm.
    clipvalue : float, optional
        Each element of a gradient is clipped to +-clipvalue.
    global_clipnorm : float, optional
        If the norm of all gradients together is larger, all are scaled down by the same factor. Only one of the three
        clips.
    gradient_accumulation_steps : int, optional
        n of 2 or more: gradients are collected, and every n-th step the weights are updated with their mean. A schedule
        goes on with every step, `iterations` counts the updates. A weight that has no gradient in the n-th step is not
        updated, as in Keras.
    name : str, optional

    Notes
    -----
    A subclass of one's own lists its state in `slots` and implements `update(w, g, lr, tmp, **slots)`, which changes
    the flat arrays `w` and `slots` in place and may use the two arrays in `tmp` and, last of all, `g`. The optimizers
    here name a kernel instead (`rule`). Where `g` and all slots are 0 it must leave `w` and the slots alone: with a
    RowsGradient (that of an Embedding) only the rows that have or once had a gradient are gone through. The numbers are
    those of the dense gradient all the same; weight decay, which moves every row, goes through all.

    After a step a weight that has a `constraint` is replaced by what that makes of it. Not supported: moving averages
    of the weights (use_ema) and loss_scale_factor, which float32 does not need.
    """

    slots = ()  # names of the arrays kept for each weight

    def __init__(
        self,
        learning_rate,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        gradient_accumulation_steps=None,
        name=None,
        **refused,
    ):
        for key, value in refused.items():
            if key not in NOT_SUPPORTED:
                raise unknown_argument(type(self), key)
            if value and key != "ema_momentum":
                raise ValueError(f"{key}: not supported, expected None or False, received {value!r}")
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        given = [key for key, value in clips.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[0]}: expected at most one of clipnorm, clipvalue and global_clipnorm, "
                f"received {', '.join(given)}"
            )
        for key in given:
            check_positive(clips[key], key)
        n = gradient_accumulation_steps
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 2):
            raise ValueError(f"gradient_accumulation_steps: expected a whole number of 2 or more, received {n!r}")
        self.learning_rate = learning_rate
        self.weight_decay = None if weight_decay is None else check_number(weight_decay, "weight_decay")
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm
        self.gradient_accumulation_steps = n
        self.name = check_name(name) or type(self).__name__.lower()
        self._steps = 0  # calls of apply
        self._slots = {}  # Variable -> {slot name: flat array}
        self._used_rows = {}  # Variable -> bool a row: False only where all slots are 0; where that is known
        self._accumulated = {}  # Variable -> sum of the gradients since the last update
        self._undecayed, self._undecayed_names = [], []

    def rule(self, lr):
        """(name, numbers) of the kernel's rule for this update; see `ops.optimizer.optimizer_update`."""
        raise NotImplementedError(f"{type(self).__name__} has no update(w, g, lr, tmp, **slots)")

    def update(self, w, g, lr, tmp, **slots):
        rule, numbers = self.rule(lr)
        optimizer_update(rule, [Update(w, tuple(slots[name] for name in self.slots), g)], lr, numbers)

    @property
    def iterations(self):
        """Updates done so far."""
        return self._steps // (self.gradient_accumulation_steps or 1)

    @property
    def learning_rate(self):
        return float(self._learning_rate(self._steps)) if callable(self._learning_rate) else self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        if not callable(value):
            value = check_number(value, "learning_rate")
            if callable(getattr(self, "_learning_rate", None)):
                raise TypeError(f"learning_rate: expected a schedule in place of the one there is, received {value}")
        self._learning_rate = value

    # ---- applying ---------------------------------------------------------------------------------------------------
    def build(self, variables):
        """Make the state of `variables`; done at need by `apply`."""
        for v in check_list(variables, "variables", Variable):
            if v not in self._slots:
                self._slots[v] = {name: np.zeros(v.size, v.dtype) for name in self.slots}
                self._used_rows[v] = np.zeros(v.shape[:1], bool)

    def apply_gradients(self, grads_and_vars):
        """One step.

        Parameters
        ----------
        grads_and_vars : iterable of (gradient, Variable)
            As `zip(layer.gradients, layer.trainable_weights)`. Where the gradient is None the weight stays, with a
            warning.

        Returns
        -------
        int
            Steps taken so far.

        Raises
        ------
        ValueError
            A gradient has another shape than its weight, a weight comes twice, or no weight has a gradient. Nothing is
            changed then.
        """
        pairs = check_list(grads_and_vars, "grads_and_vars")
        for pair in pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                received = type(pair).__name__
                raise TypeError(f"grads_and_vars: expected pairs (gradient, Variable), received a {received}")
        self.apply([g for g, _ in pairs], [v for _, v in pairs])
        return self._steps

    def apply(self, grads, trainable_variables):
        """One step with a list of gradients and the list of their weights; see `apply_gradients`."""
        grads = check_list(grads, "grads")
        variables = check_list(trainable_variables, "trainable_variables", Variable)
        if len(grads) != len(variables):
            raise ValueError(f"grads: expected one for each of the {len(variables)} weights, received {len(grads)}")
        if not variables:
            return
        missing = [v.name for g, v in zip(grads, variables, strict=True) if g is None]
        pairs = [(_checked_gradient(g, v), v) for g, v in zip(grads, variables, strict=True) if g is not None]
        if not pairs:
            raise ValueError("grads: expected a gradient for at least one weight, received None for all")
        if len({id(v) for _, v in pairs}) != len(pairs):
            raise ValueError("trainable_variables: expected each weight once, received one twice")
        if missing:
            warnings.warn(f"no gradient for {', '.join(missing)}: left unchanged", stacklevel=2)
        self.build([v for _, v in pairs])

        if self.gradient_accumulation_steps is not None:
            self._accumulate(pairs)
        else:
            self._update_all(pairs)
        for _, v in pairs:
            if v.constraint is not None:
                v.assign(v.constraint(v.value))
        self._steps += 1

    def _accumulate(self, pairs):
        n, sums = self.gradient_accumulation_steps, self._accumulated
        for g, v in pairs:
            if v not in sums:
                sums[v] = RowsGradient(g.rows, g.values.copy(), g.shape) if isinstance(g, RowsGradient) else g.copy()
            elif isinstance(sums[v], RowsGradient) or isinstance(g, RowsGradient):
                sums[v] = sums[v] + g
            else:
                sums[v] += g
        if (self._steps + 1) % n == 0:
            self._update_all([(sums[v] / n, v) for _, v in pairs])
            sums.clear()

    def _update_all(self, pairs):
        lr = self.learning_rate
        self.begin_update(lr)
        scale_of_all = self._scale_of_all([g for g, _ in pairs]) if self.global_clipnorm else 1.0
        whole = []
        for g, v in pairs:
            scale = self._scale_of_one(g) if self.clipnorm else scale_of_all
            decay = self.weight_decay if self.weight_decay is not None and self._decays(v) else 0.0
            state = tuple(self._slots[v][name] for name in self.slots)
            if isinstance(g, RowsGradient):
                whole.append(Update(v._data, state, g.values, scale, decay, *self._moving_rows(g, v, decay)))
            else:
                self._used_rows.pop(v, None)
                whole.append(Update(v._data, state, g, scale, decay))
        if type(self).update is Optimizer.update:
            rule, numbers = self.rule(lr)
            optimizer_update(rule, whole, lr, numbers, self.clipvalue or math.inf)
        else:
            for update in whole:
                self._update_by_own(update, lr)
        for _, v in pairs:
            v._changed()

    def begin_update(self, lr):
        """Called before the weights are updated: for numbers that all of them share."""

    def _moving_rows(self, g, v, decay):
        """(numbers of the rows that this step changes, for each the row of g.values or -1)."""
        if decay:
            rows = np.arange(v.shape[0])
        elif not self.slots:
            return np.ascontiguousarray(g.rows, np.int64), np.arange(len(g.rows))
        else:
            used = self._used_rows.get(v)
            if used is None:  # it had a dense gradient, or its state was read
                states = [a.reshape(v.shape[0], -1).any(axis=1) for a in self._slots[v].values()]
                self._used_rows[v] = used = np.logical_or.reduce(states)
            used[g.rows] = True
            rows = np.flatnonzero(used)
        given = np.zeros(v.shape[0], bool)
        given[g.rows] = True
        at = np.full(len(rows), -1)
        at[given[rows]] = np.arange(len(g.rows))  # both ascend
        return rows, at

    def _update_by_own(self, u, lr):
        """By the `update` of a subclass."""
        g = u.g * u.g.dtype.type(u.scale)
        if self.clipvalue:
            np.clip(g, -self.clipvalue, self.clipvalue, out=g)
        arrays = [u.w, *(a.reshape(u.w.shape) for a in u.state)]
        if u.rows is None:
            parts = [a.reshape(-1) for a in arrays]  # views: a Variable's array is contiguous
        else:
            of_rows = np.zeros((len(u.rows), *u.w.shape[1:]), g.dtype)
            of_rows[u.g_rows >= 0] = g  # both ascend
            g, parts = of_rows, [a[u.rows].reshape(-1) for a in arrays]
        w, *state = parts
        if u.decay:
            w -= w * w.dtype.type(u.decay) * w.dtype.type(lr)
        tmp = [np.empty_like(w) for _ in range(2)]
        self.update(w, g.reshape(-1), lr, tmp, **dict(zip(self.slots, state, strict=True)))
        if u.rows is not None:
            for a, part in zip(arrays, parts, strict=True):
                a[u.rows] = part.reshape(len(u.rows), *u.w.shape[1:])

    # ---- clipping and decay -----------------------------------------------------------------------------------------
    def _scale_of_one(self, g):
        return self.clipnorm / max(math.sqrt(square_sum(_values(g))), self.clipnorm)

    def _scale_of_all(self, grads):
        norm = math.sqrt(sum(square_sum(_values(g)) for g in grads))
        return self.global_clipnorm / max(norm, self.global_clipnorm) + (norm - norm)  # NaN, as in Keras, unless finite

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Let no weight decay act on these Variables, nor on those whose name contains one of `var_names`."""
        variables = check_list([] if var_list is None else var_list, "var_list", Variable)
        names = check_list([] if var_names is None else var_names, "var_names", str)
        self._undecayed += variables
        self._undecayed_names += names

    def _decays(self, v):
        return not (any(v is u for u in self._undecayed) or any(part in v.name for part in self._undecayed_names))

    # ---- state and configuration ------------------------------------------------------------------------------------
    def get_state(self, weights=None):
        """What an optimizer of the same configuration needs to go on from here.

        Parameters
        ----------
        weights : list of Variable, optional
            Their order numbers the state; default: all weights so far, in the order in which they first came.

        Returns
        -------
        dict
            "iterations": int, the steps taken. "learning_rate": float, if it is a number. "3/m": array of the weight's
            shape, a copy of the slot "m" of weight number 3; "3/accumulated": the sum of its gradients since the last
            update.
        """
        state = {"iterations": self._steps}
        if not callable(self._learning_rate):
            state["learning_rate"] = self._learning_rate
        for i, v in enumerate(self._slots if weights is None else check_list(weights, "weights", Variable)):
            state |= {f"{i}/{name}": a.reshape(v.shape).copy() for name, a in self._slots.get(v, {}).items()}
            if v in self._accumulated:
                state[f"{i}/accumulated"] = np.array(self._accumulated[v])
        return state

    def set_state(self, weights, state):
        """Go on from a state as `get_state` gives it; the state so far is forgotten.

        Parameters
        ----------
        weights : list of Variable
            As many as `get_state` knew, in the same order.
        state : dict

        Raises
        ------
        ValueError, TypeError
            Something is missing, unknown, of another shape or no number. Nothing is changed then.
        """
        weights = check_list(weights, "weights", Variable)
        if not isinstance(state, dict):
            raise TypeError(f"state: expected a dict as get_state gives it, received {type(state).__name__}")
        state = dict(state)
        steps = np.asarray(state.pop("iterations", None))
        if steps.shape != () or steps.dtype.kind not in "iu" or steps < 0:
            raise ValueError(f"state: expected a whole number of 0 or more as its 'iterations', received {steps}")
        lr = state.pop("learning_rate", None)
        lr = None if lr is None else check_number(np.asarray(lr)[()], "state: learning_rate")
        names = (*self.slots, "accumulated") if self.gradient_accumulation_steps else self.slots
        known = {f"{i}/{name}": (v, name) for i, v in enumerate(weights) for name in names}
        slots, accumulated = {}, {}
        for key, value in state.items():
            if key not in known:
                raise ValueError(
                    f"state: expected {', '.join(names) or 'nothing'} of weights 0 to {len(weights) - 1} for "
                    f"{type(self).__name__}, received {key!r}"
                )
            v, name = known[key]
            value = np.asarray(value)
            if value.dtype.kind not in "biuf":
                raise TypeError(f"state: expected numbers as {key!r}, received dtype {value.dtype}")
            if value.shape != v.shape:
                raise ValueError(f"state: expected shape {v.shape} as {key!r} of {v.name}, received {value.shape}")
            if name == "accumulated":
                accumulated[v] = value.astype(v.dtype)
            else:
                slots.setdefault(v, {})[name] = value.astype(v.dtype).reshape(-1)
        for v, of_one in slots.items():
            if missing := set(self.slots) - set(of_one):
                raise ValueError(
                    f"state: expected {', '.join(sorted(missing))} of {v.name}, too, received {', '.join(of_one)}"
                )
        self._steps, self._slots, self._accumulated, self._used_rows = int(steps), slots, accumulated, {}
        if lr is not None and not callable(self._learning_rate):
            self._learning_rate = lr

    def get_config(self):
        """The constructor's arguments, a schedule written down as a dict.

        Raises
        ------
        ValueError
            The learning rate is a function that cannot be written down.
        """
        names = [n for n in inspect.signature(type(self)).parameters if n not in ("learning_rate", "kwargs")]
        names += [n for n in inspect.signature(Optimizer).parameters if n not in ("learning_rate", "refused")]
        lr = self._learning_rate
        return {"learning_rate": schedules.serialize(lr) if callable(lr) else lr} | {n: getattr(self, n) for n in names}

    @classmethod
    def from_config(cls, config):
        """A new optimizer of that configuration, without state."""
        check_config(config)
        lr = config.get("learning_rate")
        return cls(**(config | {"learning_rate": schedules.get(lr)} if isinstance(lr, dict) else config))


def _values(g):
    return g.values if isinstance(g, RowsGradient) else g


def _checked_gradient(g, v):
    """g in the dtype of v, contiguous."""
    sparse = isinstance(g, RowsGradient)
    array = check_numbers(g.values if sparse else g, "grads")
    shape = (len(g.rows), *v.shape[1:]) if sparse else v.shape
    if array.shape != shape or (sparse and g.shape != v.shape):
        raise ValueError(f"grads: expected shape {v.shape} for {v.name}, received {g.shape if sparse else array.shape}")
    array = np.ascontiguousarray(array, dtype=v.dtype).reshape(shape)
    if not sparse:
        return array
    rows = np.asarray(g.rows)
    if len(rows) and not (rows[0] >= 0 and rows[-1] < len(v) and (rows[1:] > rows[:-1]).all()):
        raise ValueError(f"grads: expected ascending rows from 0 to {len(v) - 1} for {v.name}, received {rows}")
    return RowsGradient(rows, array, v.shape)


class SGD(Optimizer):
    """Gradient descent.

        w = w - lr g                                                        momentum 0
        m = momentum m - lr g;   w = w + m                                  with momentum
        m = momentum m - lr g;   w = w + momentum m - lr g                  with nesterov

    Further arguments: see Optimizer.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.momentum = check_number(momentum, "momentum", high=1)
        self.nesterov = check_flag(nesterov, "nesterov")
        self.slots = ("m",) if self.momentum else ()

    def rule(self, lr):
        if not self.momentum:
            return "sgd", (lr,)
        return "nesterov" if self.nesterov else "momentum", (lr, self.momentum)


class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient.

        v = rho v + (1 - rho) g^2
        a = rho a + (1 - rho) g                                             only if centered, else a = 0
        step = lr g / sqrt(v - a^2 + epsilon)
        w = w - step;      or, with momentum:  m = momentum m + step;  w = w - m

    Further arguments: see Optimizer.
    """

    def __init__(self, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.rho, self.momentum = check_number(rho, "rho", high=1), check_number(momentum, "momentum", high=1)
        self.epsilon, self.centered = check_number(epsilon, "epsilon"), check_flag(centered, "centered")
        self.slots = ("v",) + ("m",) * bool(self.momentum) + ("a",) * self.centered

    def rule(self, lr):
        name = "rmsprop" + "_centered" * self.centered + "_momentum" * bool(self.momentum)
        return name, (lr, self.rho, 1 - self.rho, self.epsilon, self.momentum)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014), t counting from 1:

        m = m + (1 - beta_1) (g - m)
        v = v + (1 - beta_2) (g^2 - v)                                      with amsgrad its maximum so far, below
        w = w - alpha m / (sqrt(v) + epsilon),     alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)

    epsilon is added before the bias correction, as in Keras; PyTorch adds it after. Further arguments: see Optimizer.
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, **kwargs):
        super().__init__(learning_rate, **kwargs)
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if check_number(value, name, high=1) == 1:
                raise ValueError(f"{name}: expected a number from 0 to below 1, received {value!r}")
        self.beta_1, self.beta_2 = float(beta_1), float(beta_2)
        self.epsilon, self.amsgrad = check_number(epsilon, "epsilon"), check_flag(amsgrad, "amsgrad")
        self.slots = ("m", "v", "v_hat") if self.amsgrad else ("m", "v")

    def rule(self, lr):
        t = self.iterations + 1
        alpha = lr * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        return "amsgrad" if self.amsgrad else "adam", (alpha, 1 - self.beta_1, 1 - self.beta_2, self.epsilon)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w = w - lr weight_decay w, then Adam's step.

    Arguments as Adam's; `weight_decay` comes second, as in Keras.
    """

    def __init__(
        self, learning_rate=0.001, weight_decay=0.004, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, **kwargs
    ):
        if weight_decay is None:
            raise ValueError("weight_decay: expected a number, received None")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **kwargs)


_kind = Kind("optimizer", Optimizer, {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}, callables=False)


def get(identifier):
    """The optimizer of that name ("adam", "Adam") or class, with its default arguments, of a configuration as
    `serialize` gives it, or `identifier` itself if it is one.

    Raises
    ------
    ValueError
        Unknown name.
    """
    return _kind.get(identifier.lower() if isinstance(identifier, str) else identifier)


def serialize(optimizer):
    """A dict that `get` takes back; without the state, for which there is `get_state`."""
    return _kind.serialize(optimizer)


deserialize = get
