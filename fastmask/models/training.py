"""compile, fit, evaluate, predict: the training loop of every model."""

import warnings

import numpy as np

from fastmask import initializers, losses, metrics, optimizers
from fastmask.layers.calls import Recording
from fastmask.models.data import Rows, align, join
from fastmask.models.progress import Progress, WholeSteps
from fastmask.ragged import Ragged

NOT_SUPPORTED = ("loss_weights", "run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")


class History:
    """What fit returns: `history`, a list of values for each of "loss", the metrics and, with "val_" before it, each on
    the validation data; `epoch`, their numbers."""

    def __init__(self):
        self.history, self.epoch = {}, []

    def add(self, epoch, logs):
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class Trainer:
    """The part of a model that trains; mixed into models, which are layers."""

    optimizer = loss = None
    input_shape = None  # of the model's inputs, once known
    _shape_is_guess = False

    def compile(self, optimizer="rmsprop", loss=None, *, metrics=None, weighted_metrics=None, **refused):
        """Say how to train.

        Parameters
        ----------
        optimizer : str or Optimizer
        loss : str or Loss
            If the model ends in softmax or sigmoid and this is the matching cross-entropy, it works on the logits.
        metrics : list of str or Metric, optional
            Computed under the mask, without sample_weight.
        weighted_metrics : list, optional
            The same with sample_weight.

        Raises
        ------
        ValueError, TypeError
            Unknown name, or an argument of Keras that is not supported.
        """
        for key, value in refused.items():
            if key not in NOT_SUPPORTED:
                raise TypeError(f"compile: unknown argument {key!r}")
            if value and value != "auto":
                raise ValueError(f"{key}: not supported yet, expected None, received {value!r}")
        chosen = optimizers.get(optimizer), None if loss is None else losses.get(loss)
        wanted = _as_list(metrics, "metrics"), _as_list(weighted_metrics, "weighted_metrics")
        for metric in wanted[0] + wanted[1]:
            _make_metric(metric, (1, 2), (1, 2))  # raises if unknown
        self.optimizer, self.loss = chosen
        self._metrics, self._weighted_metrics = wanted

    # ---- the three loops --------------------------------------------------------------------------------------------
    def fit(
        self,
        x,
        y,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        *,
        validation_batch_size=None,
        validation_freq=1,
        mask=None,
        validation_mask=None,
        bucket=False,
    ):
        """Train.

        Parameters
        ----------
        x : ndarray (B,T,...), Ragged or list of arrays
            A list of arrays becomes a Ragged.
        y : ndarray, Ragged or list
            A target for each row or each step, as the model's outputs are.
        batch_size : int
            Default 32.
        epochs : int
        verbose : "auto", 0, 1 or 2
            1 and "auto": a progress bar if tqdm is installed, else as 2, a line an epoch. 0: nothing.
        callbacks : None
            Not supported yet.
        validation_split : float
            Share of the rows, from the end, to validate on instead of training.
        validation_data : tuple (x, y) or (x, y, sample_weight)
        shuffle : bool
            New order of rows in every epoch, from the global seed.
        class_weight : None
            Not supported yet.
        sample_weight : array (B,) for rows, (B,T) or Ragged for steps
        initial_epoch, validation_batch_size, validation_freq : int
        mask : array (B,T); for a Ragged (N,) or Ragged
            True = use the step.
        validation_mask : the same for validation_data
        bucket : bool
            Put rows of similar length into the same batch. Which rows meet in a batch changes, nothing else.

        Returns
        -------
        History

        Raises
        ------
        ValueError
            Not compiled, no rows, numbers of rows or shapes that do not fit.

        Notes
        -----
        The loss of an epoch is weighted by valid steps, so the batch size does not change what it means. After
        KeyboardInterrupt the weights are those after the last whole step.
        """
        self._check_compiled("fit")
        for name, value in (("callbacks", callbacks), ("class_weight", class_weight)):
            if value:
                raise ValueError(f"{name}: not supported yet, expected None, received {value!r}")
        if y is None:
            raise ValueError("y: expected targets, received None")
        batch_size = _count(32 if batch_size is None else batch_size, "batch_size")
        rows = self._rows(x, y, mask, sample_weight)
        if not len(rows):
            raise ValueError("x: expected at least one row to train on, received none")
        validation = None
        if validation_data is not None:
            validation = self._validation_rows(validation_data, validation_mask)
        elif validation_split:
            if not 0 < validation_split < 1:
                raise ValueError(f"validation_split: expected a number between 0 and 1, received {validation_split!r}")
            rows, validation = rows.split(validation_split)
        epochs, freq = _count(epochs, "epochs", 0), _count(validation_freq, "validation_freq")
        validation_batch_size = (
            batch_size if validation_batch_size is None else _count(validation_batch_size, "validation_batch_size")
        )

        history, generator = History(), initializers.new_generator()
        with WholeSteps() as whole_steps:
            for epoch in range(initial_epoch, epochs):
                batches = rows.batches(batch_size, shuffle, bucket, generator)
                progress = Progress(verbose, epoch + 1, epochs, len(batches))
                scores = Scores(self)
                try:
                    for batch in batches:
                        self._train_step(rows.take(batch), scores, whole_steps)
                        progress.step(scores.running())
                    logs = scores.result()
                    if validation is not None and (epoch + 1) % freq == 0:
                        val = self._evaluate(validation, validation_batch_size)
                        logs |= {f"val_{name}": value for name, value in val.items()}
                except BaseException:
                    progress.stop()
                    raise
                progress.end(logs)
                history.add(epoch, logs)
        self.history = history
        return history

    def evaluate(self, x, y, batch_size=None, verbose=0, sample_weight=None, *, return_dict=False, mask=None):
        """Loss and metrics on given data; arguments as `fit`'s.

        Returns
        -------
        float, list of float or dict
            The loss; with metrics a list, the loss first; with return_dict a dict by name.
        """
        self._check_compiled("evaluate")
        logs = self._evaluate(
            self._rows(x, y, mask, sample_weight), _count(32 if batch_size is None else batch_size, "batch_size")
        )
        if verbose:
            print("  ".join(f"{name} {value:.4f}" for name, value in logs.items()), flush=True)
        return _logs(logs, return_dict)

    def _evaluate(self, rows, batch_size):
        scores = Scores(self)
        for batch in rows.in_order(batch_size):
            self._test_step(rows.take(batch), scores)
        return scores.result()

    def predict(self, x, batch_size=None, verbose=0, *, mask=None):
        """The outputs for all rows, in their order.

        Returns
        -------
        ndarray, or Ragged
            A Ragged if x is a Ragged or a list of arrays and the outputs are one for each step.
        """
        rows = self._rows(x, None, mask, None)
        parts = []
        for batch in rows.in_order(_count(32 if batch_size is None else batch_size, "batch_size")):
            x, _, mask, _ = rows.take(batch)
            parts.append(self._run(x, mask, False)[0])
        return join(parts)

    # ---- single batches ---------------------------------------------------------------------------------------------
    def train_on_batch(self, x, y, sample_weight=None, *, return_dict=False, mask=None):
        """One step on one batch. Returns the loss before it, as `evaluate` does, of this batch alone."""
        self._check_compiled("train_on_batch")
        scores = Scores(self)
        rows = self._rows(x, y, mask, sample_weight)
        with WholeSteps() as whole_steps:
            self._train_step(rows.take(slice(0, len(rows))), scores, whole_steps)
        return _logs(scores.result(), return_dict)

    def test_on_batch(self, x, y, sample_weight=None, *, return_dict=False, mask=None):
        """Loss and metrics of one batch."""
        return self.evaluate(x, y, max(len(x), 1), 0, sample_weight, return_dict=return_dict, mask=mask)

    def predict_on_batch(self, x, *, mask=None):
        """Outputs of one batch."""
        return self.predict(x, max(len(x), 1), mask=mask)

    # ---- steps ------------------------------------------------------------------------------------------------------
    def _train_step(self, batch, scores, whole_steps):
        with Recording() as recording:
            outputs, mask = self._run(batch.x, batch.mask, True)
        call = recording.inner[self][-1]
        call.need_x = False
        on_logits = self._loss_on_logits()
        call.grad_is_of_logits = on_logits is not None
        y, weight = align(batch.y, outputs, mask, "y"), align(batch.sample_weight, outputs, mask, "sample_weight")
        total, divisor, d_outputs = (on_logits or self.loss).sums_and_grad(
            y, call.logits if on_logits else outputs, sample_weight=weight, mask=mask
        )
        weights, trained = scores.weights()
        for v in weights:
            v.gradient = None
        with recording.backwards():
            self.backward(d_outputs)
        if trained:
            gradients = [np.zeros(v.shape, v.dtype) if v.gradient is None else v.gradient for v in trained]
            with whole_steps.step():
                self.optimizer.apply(gradients, trained)
        scores.add(total, divisor, y, outputs, weight, mask)

    def _test_step(self, batch, scores):
        on_logits = self._loss_on_logits()
        if on_logits is None:
            outputs, mask = self._run(batch.x, batch.mask, False)
            predicted = outputs
        else:
            outputs, mask, predicted = self._run_with_logits(batch.x, batch.mask)
        y, weight = align(batch.y, outputs, mask, "y"), align(batch.sample_weight, outputs, mask, "sample_weight")
        total, divisor = (on_logits or self.loss).sums(y, predicted, sample_weight=weight, mask=mask)
        scores.add(total, divisor, y, outputs, weight, mask)

    def _loss_on_logits(self):
        """The loss that takes the logits, if the model ends in the activation that belongs to it, else None."""
        activation = getattr(self.loss, "activation", None)
        if activation is None or activation != self.output_activation:
            return None
        if self.loss.from_logits:
            warnings.warn(
                f"the loss has from_logits=True, but the model ends in {activation}: the logits before it are used",
                stacklevel=4,
            )
        return self.loss.on_logits()

    def _validation_rows(self, data, mask):
        if not isinstance(data, (list, tuple)) or len(data) not in (2, 3):
            raise ValueError(
                f"validation_data: expected (x, y) or (x, y, sample_weight), received {type(data).__name__}"
            )
        return self._rows(data[0], data[1], mask, data[2] if len(data) == 3 else None)

    def _rows(self, x, y, mask, sample_weight):
        """Checked; lists are stacked only where the model declares inputs (B,F), which are no sequences."""
        if isinstance(x, (list, tuple)) and not len(x) and self.input_shape is not None and len(self.input_shape) > 2:
            x = Ragged(np.zeros((0, *self.input_shape[2:]), np.float32), [0])
        shape = None if self._shape_is_guess else self.input_shape
        stack = shape is not None and len(shape) == 2 and shape[1] is not None
        return Rows(x, y, mask, sample_weight, stack)

    def _check_compiled(self, method):
        if self.optimizer is None or self.loss is None:
            what = "compile(optimizer, loss)" if self.optimizer is None else "compile with a loss"
            raise ValueError(f"{self.name}.{method}: expected a call of {what} before it")


class Scores:
    """Loss and metrics of an epoch, each a mean over valid steps."""

    def __init__(self, model):
        self.model = model
        self.sums = model.loss.reduction in ("sum", "none", None)  # the loss of an epoch is then a sum, too
        self.total = self.divisor = 0.0
        self.metrics = None
        self._weights = None

    def weights(self):
        """All weights of the model and those that are trained; looked up once an epoch."""
        if self._weights is None:
            self._weights = self.model.weights, self.model.trainable_weights
        return self._weights

    def add(self, total, divisor, y, outputs, weight, mask):
        self.total += total
        self.divisor += divisor
        if self.metrics is None:
            self.metrics = self._make(y, outputs)
        for metric, weighted in self.metrics:
            metric.update_state(y, outputs, sample_weight=weight if weighted else None, mask=mask)

    def _make(self, y, outputs):
        made = []
        for names, weighted in ((self.model._metrics, False), (self.model._weighted_metrics, True)):
            for name in names:
                metric = _make_metric(name, y.shape, outputs.shape)
                metric.reset_state()
                if weighted and any(metric.name == other.name for other, _ in made):
                    metric.name = f"weighted_{metric.name}"
                made.append((metric, weighted))
        return made

    def running(self):
        """The loss so far."""
        return {"loss": self.total if self.sums else self.total / self.divisor if self.divisor else 0.0}

    def result(self):
        return self.running() | {metric.name: metric.result() for metric, _ in self.metrics or ()}


def _make_metric(metric, y_shape, outputs_shape):
    return metrics.get(metric, y_shape, outputs_shape)


def _as_list(value, name):
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: expected a list, received {value!r}")
    return list(value)


def _logs(logs, return_dict):
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def _count(n, name, minimum=1):
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < minimum:
        raise ValueError(f"{name}: expected a whole number of {minimum} or more, received {n!r}")
    return int(n)
