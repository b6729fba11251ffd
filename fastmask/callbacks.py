"""Callbacks with Keras 3's names, arguments and decisions: what may be done between the steps of fit, evaluate and
predict.

    model.fit(x, y, callbacks=[fm.callbacks.EarlyStopping(patience=3, restore_best_weights=True)])
"""

import csv
import functools
import inspect
import math
import os
import warnings
from collections.abc import Iterable

from fastmask.checks import check_flag, check_function, check_number, check_path
from fastmask.ops.mask import check_count


class Callback:
    """Base class: one of your own overrides what it needs.

    Attributes
    ----------
    model : Model
        That is trained; ``self.model.stop_training = True`` ends fit after the batch or epoch that is running, and
        `stop_evaluating` and `stop_predicting` likewise evaluate (and validation) and predict.
    params : dict
        "epochs", "steps" (batches of an epoch, None if not known) and "verbose".

    Notes
    -----
    `epoch` and `batch` count from 0. `logs` holds the loss and the metrics, of the epoch so far at the end of a batch,
    of the whole epoch (with "val_" before it of the validation) at its end; what a callback puts into it is seen by
    those after it. In validation the methods named "test" are called.
    """

    model = None
    params = None

    def set_model(self, model):
        self.model = model

    def set_params(self, params):
        self.params = params

    def on_train_begin(self, logs=None):
        """At the beginning of fit."""

    def on_train_end(self, logs=None):
        """At the end of fit, with the logs of the last epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first batch of an epoch of fit."""

    def on_epoch_end(self, epoch, logs=None):
        """After the last batch of an epoch of fit, and the validation."""

    def on_batch_begin(self, batch, logs=None):
        """Another name of on_train_batch_begin."""

    def on_batch_end(self, batch, logs=None):
        """Another name of on_train_batch_end."""

    def on_train_batch_begin(self, batch, logs=None):
        """Before a step of fit."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """After a step of fit."""
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs=None):
        """At the beginning of evaluate, or of the validation in fit."""

    def on_test_end(self, logs=None):
        """At the end of evaluate, or of the validation in fit."""

    def on_test_batch_begin(self, batch, logs=None):
        """Before a batch of evaluate or validation."""

    def on_test_batch_end(self, batch, logs=None):
        """After a batch of evaluate or validation."""

    def on_predict_begin(self, logs=None):
        """At the beginning of predict."""

    def on_predict_end(self, logs=None):
        """At the end of predict."""

    def on_predict_batch_begin(self, batch, logs=None):
        """Before a batch of predict."""

    def on_predict_batch_end(self, batch, logs=None):
        """After a batch of predict, with its outputs as logs["outputs"]."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class CallbackList(Callback):
    """Several callbacks as one, called in their order.

    Parameters
    ----------
    callbacks : Callback or list, optional
        Lists in lists and other CallbackLists are flattened.
    add_history : bool
        Add a History at the end, unless there is one; see `history`.
    model : Model, optional
    params : further keyword arguments, the callbacks' `params`

    Attributes
    ----------
    history : History or None
    """

    def __init__(self, callbacks=None, add_history=False, model=None, **params):
        self.callbacks = _flat(callbacks)
        self.history = next((c for c in self.callbacks if isinstance(c, History)), None)
        if add_history and self.history is None:
            self.history = History()
            self.callbacks.append(self.history)
        self._listeners = {hook: [c for c in self.callbacks if _overrides(c, hook)] for hook in HOOKS}
        if model is not None:
            self.set_model(model)
        self.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params):
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def listens(self, hook):
        """Whether any callback does something there: if not, its logs need not be computed."""
        if hook not in self._listeners:
            raise ValueError(f"hook: expected one of {', '.join(HOOKS)}, received {hook!r}")
        return bool(self._listeners[hook])


def _to_all(hook):
    """A method that calls those of the callbacks that have one; they share one dict of logs."""

    def with_index(self, index, logs=None):
        logs = dict(logs or {}) if self._listeners[hook] else None
        for callback in self._listeners[hook]:
            getattr(callback, hook)(index, logs)

    def without(self, logs=None):
        logs = dict(logs or {}) if self._listeners[hook] else None
        for callback in self._listeners[hook]:
            getattr(callback, hook)(logs)

    return functools.wraps(getattr(Callback, hook))(with_index if "batch" in hook or "epoch" in hook else without)


for _hook in HOOKS:
    setattr(CallbackList, _hook, _to_all(_hook))


def _flat(callbacks):
    if callbacks is None:
        return []
    if type(callbacks) is CallbackList:
        return list(callbacks.callbacks)
    if isinstance(callbacks, (list, tuple)):
        return [c for some in callbacks for c in _flat(some)]
    if not isinstance(callbacks, Callback):
        raise TypeError(f"callbacks: expected Callback objects, received {callbacks!r}")
    return [callbacks]


def _verbose(verbose):
    if not isinstance(verbose, (bool, int)) or verbose not in (0, 1):
        raise ValueError(f"verbose: expected 0 or 1, received {verbose!r}")
    return int(verbose)


def _overrides(callback, hook):
    """Whether a callback has a method of its own there, or the older name of it."""
    hooks = (hook, hook.replace("_train_", "_")) if hook.startswith("on_train_batch") else (hook,)
    return any(getattr(getattr(callback, h), "__func__", None) is not getattr(Callback, h) for h in hooks)


class History(Callback):
    """What fit returns: `history`, a list of values for each of "loss", the metrics and, with "val_" before it, each on
    the validation data; `epoch`, their numbers."""

    def __init__(self):
        self.history, self.epoch = {}, []

    def set_model(self, model):
        model.history = self  # the model is not kept: a history is saved and sent on its own

    def on_train_begin(self, logs=None):
        self.epoch = []

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """A callback of functions given by the names of the methods: ``LambdaCallback(on_epoch_end=lambda epoch, logs:
    ...)``."""

    def __init__(
        self,
        on_epoch_begin=None,
        on_epoch_end=None,
        on_train_begin=None,
        on_train_end=None,
        on_train_batch_begin=None,
        on_train_batch_end=None,
        **kwargs,
    ):
        named = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
        }
        for name, function in (named | kwargs).items():
            if name not in HOOKS:
                raise TypeError(
                    f"LambdaCallback: unknown argument {name!r}: expected arguments among {', '.join(HOOKS)}, "
                    f"received {name!r}"
                )
            if check_function(function, name, none=True) is not None:
                setattr(self, name, function)


class TerminateOnNaN(Callback):
    """Stop when the loss is NaN or infinite after a batch; with `raise_error` by a RuntimeError, at once."""

    def __init__(self, raise_error=False):
        self.raise_error = check_flag(raise_error, "raise_error")

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"loss: expected a finite number, received {loss} in batch {batch}")
        print(f"Batch {batch}: Invalid loss, terminating training", flush=True)
        self.model.stop_training = True


# ---- those that watch a value ---------------------------------------------------------------------------------------
RISING = {"acc", "accuracy", "auc", "f1", "fbeta", "iou", "precision", "r2", "recall", "sensitivity", "similarity"}
FALLING = {"crossentropy", "divergence", "error", "hinge", "huber", "logcosh", "loss", "mae", "mape", "mse", "msle"}
FALLING |= {"perplexity", "poisson", "rmse"}


class MonitorCallback(Callback):
    """Base of callbacks that watch one entry of the logs.

    Parameters
    ----------
    monitor : str
        Its name.
    mode : "auto", "min" or "max"
        Whether smaller or larger is better. "auto" knows by the words of the name: "loss", "error" and the like want to
        be small, "accuracy", "auc" and the like large.
    baseline : float, optional
        What the first value has to beat.
    min_delta : float
        By how much a better value must differ.
    """

    _baseline = "baseline"  # what a subclass calls that argument

    def __init__(self, monitor="val_loss", mode="auto", baseline=None, min_delta=0):
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected a str, received {monitor!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'mode: expected "auto", "min" or "max", received {mode!r}')
        if mode == "auto":
            words = set(monitor.split("_"))
            rising, falling = words & RISING, words & FALLING
            if bool(rising) == bool(falling):
                raise ValueError(
                    f'mode: expected "min" or "max" for {monitor!r}, which is not known to be better if it falls or '
                    'rises, received "auto"'
                )
            mode = "max" if rising else "min"
        self.monitor, self.mode = monitor, mode
        self.best = None if baseline is None else check_number(baseline, self._baseline, low=-math.inf)
        self.min_delta = abs(check_number(min_delta, "min_delta", low=-math.inf))

    def is_improvement(self, value, best):
        """Whether `value` is better than `best` by more than min_delta; than None every value is."""
        if best is None:
            return True
        return value - self.min_delta > best if self.mode == "max" else value + self.min_delta < best

    def value_in(self, logs):
        """The watched value, or None with a warning."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__}: expected {self.monitor!r} in the logs, received {', '.join(logs or {})}",
                stacklevel=2,
            )
        return value


class EarlyStopping(MonitorCallback):
    """Stop when a value has not become better for a while.

    Parameters
    ----------
    monitor, min_delta : see MonitorCallback
    patience : int
        Number of epochs without improvement after which training stops.
    verbose : 0 or 1
        1: say so.
    mode : see MonitorCallback
    baseline : float, optional
        An epoch counts as an improvement only if it beats this, too.
    restore_best_weights : bool
        Go back to the weights of the best epoch at the end, also if nothing was stopped.
    start_from_epoch : int
        Epochs before are not looked at.
    """

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(monitor, mode, baseline, min_delta)
        self.patience, self.verbose, self.baseline = check_count(patience, "patience"), _verbose(verbose), self.best
        self.restore_best_weights = check_flag(restore_best_weights, "restore_best_weights")
        self.start_from_epoch = check_count(start_from_epoch, "start_from_epoch")
        self._reset()

    def _reset(self):
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = self.best_weights = None

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_end(self, epoch, logs=None):
        current = self.value_in(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        improved = self.is_improvement(current, self.best)
        if improved or (self.restore_best_weights and self.best_weights is None):
            self.best_epoch = epoch
            if self.restore_best_weights:
                self.best_weights = [v.numpy() for v in self.model.weights]
        self.wait += 1
        if improved:
            self.best = current
            if self.baseline is None or self.is_improvement(current, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.stopped_epoch > 0 and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping", flush=True)
        if self.best_weights is not None:
            if self.verbose:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}", flush=True)
            for v, value in zip(self.model.weights, self.best_weights, strict=True):
                v.assign(value)


class ModelCheckpoint(MonitorCallback):
    """Save the model, or its weights, after every epoch or every few batches.

    Parameters
    ----------
    filepath : str or path
        May contain "{epoch}", counted from 1, "{batch}" and names of the logs, with a format: "{epoch:02d}-{loss:.3f}".
        Folders are made at need.
    monitor : see MonitorCallback; for save_best_only
    verbose : 0 or 1
        1: say so.
    save_best_only : bool
        Save only if the value is better than all before, from former calls of fit, too.
    save_weights_only : bool
        `model.save_weights(filepath)` instead of `model.save(filepath)`.
    mode : see MonitorCallback
    save_freq : "epoch" or int
        After each epoch, or after so many batches.
    initial_value_threshold : float, optional
        What the first value has to beat.
    """

    _baseline = "initial_value_threshold"

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        initial_value_threshold=None,
    ):
        if mode == "auto" and not save_best_only:
            mode = "min"  # of no account, so that any name will do
        super().__init__(monitor, mode, initial_value_threshold)
        if save_freq != "epoch" and (isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f'save_freq: expected "epoch" or a whole number of 1 or more, received {save_freq!r}')
        self.filepath, self.verbose, self.save_freq = check_path(filepath, "filepath"), _verbose(verbose), save_freq
        self.save_best_only = check_flag(save_best_only, "save_best_only")
        self.save_weights_only = check_flag(save_weights_only, "save_weights_only")
        self._epoch = self._batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.save_freq == "epoch":
            return
        self._batches += 1
        if self._batches == self.save_freq:
            self._batches = 0
            self._save(self._epoch, logs or {}, batch=batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save(epoch, logs or {})

    def _save(self, epoch, logs, **batch):
        try:
            path = self.filepath.format(**{"epoch": epoch + 1, **batch, **logs})
        except KeyError as error:
            known = ", ".join({"epoch": 0, **batch, **logs})
            raise KeyError(f"filepath: expected names among {known}, received {self.filepath!r}") from error
        value = self.value_in(logs) if self.save_best_only else None  # with a warning if there is none: saved then
        if value is not None:
            if not self.is_improvement(value, self.best):
                self._say(epoch, f"{self.monitor} did not improve from {self.best:.5f}")
                return
            before = "" if self.best is None else f" from {self.best:.5f}"
            self._say(epoch, f"{self.monitor} improved{before} to {value:.5f}")
            self.best = value
        self._say(epoch, f"saving to {path}")
        if os.path.dirname(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)

    def _say(self, epoch, message):
        if self.verbose:
            print(f"Epoch {epoch + 1}: {message}", flush=True)


# ---- the learning rate ----------------------------------------------------------------------------------------------
class ReduceLROnPlateau(MonitorCallback):
    """Make the learning rate smaller when a value has not become better for a while.

    Parameters
    ----------
    monitor : see MonitorCallback
    factor : float
        Below 1; what the learning rate is multiplied by.
    patience : int
        Number of epochs without improvement after which that happens.
    verbose : 0 or 1
        1: say so.
    mode, min_delta : see MonitorCallback
    cooldown : int
        Number of epochs after it that do not count.
    min_lr : float
        The learning rate does not go below.
    """

    def __init__(
        self,
        monitor="val_loss",
        factor=0.1,
        patience=10,
        verbose=0,
        mode="auto",
        min_delta=1e-4,
        cooldown=0,
        min_lr=0.0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        self.factor = check_number(factor, "factor")
        if self.factor >= 1:
            raise ValueError(f"factor: expected a number below 1, received {factor!r}")
        self.patience, self.cooldown = check_count(patience, "patience"), check_count(cooldown, "cooldown")
        self.verbose, self.min_lr = _verbose(verbose), check_number(min_lr, "min_lr")
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs=None):
        self.wait = self.cooldown_counter = 0
        self.best = None
        self.model.optimizer.learning_rate = self.model.optimizer.learning_rate  # an error now if it has a schedule

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        optimizer = self.model.optimizer
        logs["learning_rate"] = optimizer.learning_rate
        current = self.value_in(logs)
        if current is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_improvement(current, self.best):
            self.best, self.wait = current, 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience and optimizer.learning_rate > self.min_lr:
                optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0
                if self.verbose:
                    print(f"Epoch {epoch + 1}: reducing the learning rate to {optimizer.learning_rate:.6g}", flush=True)

    def in_cooldown(self):
        return self.cooldown_counter > 0


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch.

    Parameters
    ----------
    schedule : function
        Of the epoch, counted from 0, and the learning rate so far, or of the epoch alone; returns a number.
    verbose : 0 or 1
        1: say so.
    """

    def __init__(self, schedule, verbose=0):
        check_function(schedule, "schedule")
        try:
            inspect.signature(schedule).bind(0, 0.1)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False
        self.schedule, self.verbose = schedule, _verbose(verbose)

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        rate = self.schedule(epoch, optimizer.learning_rate) if self._takes_rate else self.schedule(epoch)
        optimizer.learning_rate = check_number(rate, "schedule: learning rate")
        if self.verbose:
            print(f"Epoch {epoch + 1}: setting the learning rate to {optimizer.learning_rate:.6g}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate


# ---- files ----------------------------------------------------------------------------------------------------------
class CSVLogger(Callback):
    """Write the logs of each epoch to a line of a CSV file, which is complete after every epoch.

    Parameters
    ----------
    filename : str or path
    separator : str
        Between the entries of a line.
    append : bool
        Go on with a file that exists, instead of starting it anew.

    Notes
    -----
    The columns are "epoch" and what the first epoch has, by name, and the same with "val_" if it had no validation;
    "NA" where an epoch does not have it.
    """

    def __init__(self, filename, separator=",", append=False):
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(f"separator: expected a str of one character, received {separator!r}")
        self.filename, self.separator = check_path(filename, "filename"), separator
        self.append = check_flag(append, "append")
        self._file = self._keys = self._writer = None

    def on_train_begin(self, logs=None):
        self._close()
        self._keys = None
        self._file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115, closed at the end

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self._keys is None:
            self._keys = sorted(logs)
            if not any(key.startswith("val_") for key in self._keys):
                self._keys += [f"val_{key}" for key in self._keys]
            self._writer = csv.writer(self._file, delimiter=self.separator)
            if self._file.tell() == 0:
                self._writer.writerow(["epoch", *self._keys])
        self._writer.writerow([epoch, *(_cell(logs.get(key, "NA")) for key in self._keys)])
        self._file.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _close(self):
        if self._file is not None:
            self._file.close()
            self._file = self._writer = None


def _cell(value):
    """Several values as "[1, 2]"."""
    if isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1):
        return f"[{', '.join(map(str, value))}]"
    return value
