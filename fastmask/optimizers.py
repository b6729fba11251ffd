"""Optimizers: SGD, RMSprop, Adam and AdamW with the formulas of Keras 3.

Updates are done in place, in pieces of a weight that fit the cache, so that a step makes no array of a weight's size.
Numbers that all elements share (Adam's bias correction, the norm of the gradients) are computed in float64; Keras
computes them in the weights' dtype, which for float32 makes its step at small t differ by up to 1e-4 of itself.
"""

import inspect
import math
import warnings

import numpy as np

from fastmask.variable import Variable

PIECE = 16384  # elements: six float32 pieces of 64 KB stay in the second-level cache


class Optimizer:
    """Base class of the optimizers: clipping, weight decay, learning rate and state.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of `iterations` (the number of steps taken) that returns one. Can be set at any time.
    weight_decay : float, optional
        If given, weights shrink by `weight_decay * learning_rate` of themselves before each update.
    clipnorm : float, optional
        Each gradient whose norm is larger is scaled down to that norm.
    clipvalue : float, optional
        Each element of a gradient is clipped to +-clipvalue.
    global_clipnorm : float, optional
        If the norm of all gradients together is larger, all are scaled down by the same factor. Only one of the three
        clips.
    name : str, optional

    Notes
    -----
    A subclass lists its state in `slots` and implements `update(w, g, lr, tmp, **slots)`, which changes the flat arrays
    `w` and `slots` in place and may use the two arrays in `tmp` and, last of all, `g`.
    """

    def __init__(
        self,
        learning_rate,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        name=None,
        **refused,
    ):
        for key, value in refused.items():
            if key not in (
                "use_ema",
                "ema_momentum",
                "ema_overwrite_frequency",
                "loss_scale_factor",
                "gradient_accumulation_steps",
            ):
                raise TypeError(f"{type(self).__name__}: unknown argument {key!r}")
            if value and key != "ema_momentum":
                raise ValueError(f"{key}: not supported, expected None or False, received {value!r}")
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        given = [key for key, value in clips.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"expected at most one of clipnorm, clipvalue and global_clipnorm, received {', '.join(given)}"
            )
        for key in given:
            if not clips[key] > 0:
                raise ValueError(f"{key}: expected a positive number, received {clips[key]!r}")
        if weight_decay is not None and not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number of 0 or more, received {weight_decay!r}")
        self.learning_rate = learning_rate
        self.weight_decay, self.clipnorm, self.clipvalue, self.global_clipnorm = (
            weight_decay,
            clipnorm,
            clipvalue,
            global_clipnorm,
        )
        self.name = name or type(self).__name__.lower()
        self.iterations = 0  # steps taken
        self._slots = {}  # Variable -> {slot name: flat array}
        self._undecayed, self._undecayed_names = [], []
        self._tmp = {}  # dtype -> three pieces

    slots = ()  # names of the arrays kept for each weight

    def update(self, w, g, lr, tmp, **slots):
        raise NotImplementedError(f"{type(self).__name__} has no update(w, g, lr, tmp, **slots)")

    # ---- learning rate ----------------------------------------------------------------------------------------------
    @property
    def learning_rate(self):
        return float(self._learning_rate(self.iterations)) if callable(self._learning_rate) else self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        if not callable(value):
            value = float(value)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"learning_rate: expected a finite number of 0 or more, received {value!r}")
        self._learning_rate = value

    # ---- applying ---------------------------------------------------------------------------------------------------
    def build(self, variables):
        """Make the state of `variables`; done at need by `apply`."""
        for v in variables:
            if v not in self._slots:
                self._slots[v] = {name: np.zeros(v.size, v.dtype) for name in self.slots}

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
        pairs = [(g, v) for g, v in grads_and_vars]
        self.apply([g for g, _ in pairs], [v for _, v in pairs])
        return self.iterations

    def apply(self, grads, trainable_variables):
        """One step with a list of gradients and the list of their weights; see `apply_gradients`."""
        grads, variables = list(grads), list(trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(f"grads: expected one for each of the {len(variables)} weights, received {len(grads)}")
        if not variables:
            return
        missing = [v.name for g, v in zip(grads, variables, strict=True) if g is None]
        pairs = [(_flat_gradient(g, v), v) for g, v in zip(grads, variables, strict=True) if g is not None]
        if not pairs:
            raise ValueError("grads: expected a gradient for at least one weight, received None for all")
        if len({id(v) for _, v in pairs}) != len(pairs):
            raise ValueError("trainable_variables: expected each weight once, received one twice")
        if missing:
            warnings.warn(f"no gradient for {', '.join(missing)}: left unchanged", stacklevel=2)
        self.build([v for _, v in pairs])

        lr = self.learning_rate
        scale = self._scale_of_all([g for g, _ in pairs]) if self.global_clipnorm else None
        self.begin_step(lr)
        for g, v in pairs:
            self._apply_one(g, v, lr, self._scale_of_one(g) if self.clipnorm else scale)
        self.iterations += 1

    def begin_step(self, lr):
        """Called once a step, before the weights are updated: for numbers that all of them share."""

    def _apply_one(self, g, v, lr, scale):
        w, slots = v._data.reshape(-1), self._slots[v]  # a view: a Variable's array is contiguous
        decay = self.weight_decay if self._decays(v) else None
        for start in range(0, len(w), PIECE):
            piece = slice(start, start + PIECE)
            w_piece = w[piece]
            tmp = [t[: len(w_piece)] for t in self._pieces(v.dtype)]
            g_piece = tmp.pop()
            if scale is not None:
                np.multiply(g[piece], v.dtype.type(scale), out=g_piece)
            elif self.clipvalue:
                np.clip(g[piece], -self.clipvalue, self.clipvalue, out=g_piece)
            else:
                np.copyto(g_piece, g[piece])
            if decay is not None:  # w -= w decay lr
                np.multiply(w_piece, v.dtype.type(decay), out=tmp[0])
                tmp[0] *= v.dtype.type(lr)
                w_piece -= tmp[0]
            self.update(w_piece, g_piece, lr, tmp, **{name: slots[name][piece] for name in self.slots})
        v._changed()

    def _pieces(self, dtype):
        if dtype not in self._tmp:
            self._tmp[dtype] = [np.empty(PIECE, dtype) for _ in range(3)]
        return self._tmp[dtype]

    # ---- clipping and decay -----------------------------------------------------------------------------------------
    def _scale_of_one(self, g):
        return self.clipnorm / max(math.sqrt(self._sum_of_squares(g)), self.clipnorm)

    def _scale_of_all(self, grads):
        norm = math.sqrt(sum(self._sum_of_squares(g) for g in grads))
        return self.global_clipnorm / max(norm, self.global_clipnorm) + (norm - norm)  # NaN, as in Keras, unless finite

    def _sum_of_squares(self, g):
        """In float64 and without BLAS, whose threads would slow down the kernels that run next."""
        total, square = 0.0, self._pieces(g.dtype)[0]
        for start in range(0, len(g), PIECE):
            piece = g[start : start + PIECE]
            np.multiply(piece, piece, out=square[: len(piece)])
            total += float(np.add.reduce(square[: len(piece)], dtype=np.float64))
        return total

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Let no weight decay act on these Variables, nor on those whose name contains one of `var_names`."""
        self._undecayed += list(var_list or [])
        self._undecayed_names += list(var_names or [])

    def _decays(self, v):
        return not (any(v is u for u in self._undecayed) or any(part in v.name for part in self._undecayed_names))

    # ---- configuration ----------------------------------------------------------------------------------------------
    def get_config(self):
        names = [n for n in inspect.signature(type(self)).parameters if n not in ("learning_rate", "kwargs")]
        config = {"learning_rate": self._learning_rate} | {name: getattr(self, name) for name in names}
        return config | {
            name: getattr(self, name) for name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "name")
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __getstate__(self):
        return self.__dict__ | {"_tmp": {}}


def _flat_gradient(g, v):
    if not isinstance(v, Variable):
        raise TypeError(f"trainable_variables: expected Variables, received {type(v).__name__}")
    g = np.asarray(g)
    if g.shape != v.shape:
        raise ValueError(f"grads: expected shape {v.shape} for {v.name}, received {g.shape}")
    return np.ascontiguousarray(g, dtype=v.dtype).reshape(-1)


class SGD(Optimizer):
    """Gradient descent.

        w = w - lr g                                                        momentum 0
        m = momentum m - lr g;   w = w + m                                  with momentum
        m = momentum m - lr g;   w = w + momentum m - lr g                  with nesterov

    Further arguments: see Optimizer.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, **kwargs):
        super().__init__(learning_rate, **kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, received {momentum!r}")
        self.momentum, self.nesterov = float(momentum), bool(nesterov)
        self.slots = ("m",) if self.momentum else ()

    def update(self, w, g, lr, tmp, m=None):
        g *= g.dtype.type(lr)
        if m is None:
            w -= g
            return
        m *= self.momentum
        m -= g
        if self.nesterov:
            np.multiply(m, self.momentum, out=tmp[0])
            tmp[0] -= g
            w += tmp[0]
        else:
            w += m


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
        for name, value in (("rho", rho), ("momentum", momentum)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, received {value!r}")
        self.rho, self.momentum, self.epsilon, self.centered = (
            float(rho),
            float(momentum),
            float(epsilon),
            bool(centered),
        )
        self.slots = ("v",) + ("m",) * bool(self.momentum) + ("a",) * self.centered

    def update(self, w, g, lr, tmp, v, m=None, a=None):
        step, tmp = tmp
        np.multiply(g, g, out=tmp)
        tmp *= 1 - self.rho
        v *= self.rho
        v += tmp
        np.copyto(step, v)
        if a is not None:
            np.multiply(g, 1 - self.rho, out=tmp)
            a *= self.rho
            a += tmp
            np.multiply(a, a, out=tmp)
            step -= tmp
        step += self.epsilon
        np.sqrt(step, out=step)
        g *= g.dtype.type(lr)
        np.divide(g, step, out=step)
        if m is not None:
            m *= self.momentum
            m += step
            step = m
        w -= step


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
            if not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number from 0 to below 1, received {value!r}")
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = (
            float(beta_1),
            float(beta_2),
            float(epsilon),
            bool(amsgrad),
        )
        self.slots = ("m", "v", "v_hat") if self.amsgrad else ("m", "v")

    def begin_step(self, lr):
        t = self.iterations + 1
        self._alpha = lr * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)

    def update(self, w, g, lr, tmp, m, v, v_hat=None):
        step, tmp = tmp
        np.subtract(g, m, out=tmp)
        tmp *= 1 - self.beta_1
        m += tmp
        np.multiply(g, g, out=tmp)
        tmp -= v
        tmp *= 1 - self.beta_2
        v += tmp
        if v_hat is not None:
            np.maximum(v_hat, v, out=v_hat)
            v = v_hat
        np.sqrt(v, out=tmp)
        tmp += self.epsilon
        np.multiply(m, g.dtype.type(self._alpha), out=step)
        step /= tmp
        w -= step


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


_by_name = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def get(identifier):
    """The optimizer of that name ("adam", "Adam"), with its default arguments, or `identifier` itself if it is one.

    Raises
    ------
    ValueError
        Unknown name.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        return identifier()
    if isinstance(identifier, str) and identifier.lower() in _by_name:
        return _by_name[identifier.lower()]()
    if isinstance(identifier, dict) and str(identifier.get("class_name")).lower() in _by_name:
        return _by_name[identifier["class_name"].lower()].from_config(identifier.get("config", {}))
    raise ValueError(f"optimizer: expected an Optimizer or one of {', '.join(_by_name)}, received {identifier!r}")
