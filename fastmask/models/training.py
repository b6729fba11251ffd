"""compile, fit, evaluate, predict: the training loop of every model."""

import warnings

import numpy as np

from fastmask import initializers, losses, metrics, optimizers
from fastmask.layers.calls import Recording
from fastmask.models.data import Rows, align, join, per_part
from fastmask.models.progress import Progress, WholeSteps
from fastmask.models.scores import Result, Scores
from fastmask.ragged import Ragged

NOT_SUPPORTED = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")


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
    _input_keys = _output_keys = None  # of models with several inputs or outputs: not None
    input_names = output_names = ("",)

    def compile(
        self, optimizer="rmsprop", loss=None, *, loss_weights=None, metrics=None, weighted_metrics=None, **refused
    ):
        """Say how to train.

        Parameters
        ----------
        optimizer : str or Optimizer
        loss : str or Loss; for several outputs one for all, a list, or a dict by the names of the outputs
            None in a list, or a name left out of a dict: that output has no loss. If the model ends in softmax or
            sigmoid and this is the matching cross-entropy, it works on the logits.
        loss_weights : list or dict of float, optional
            What the losses of the outputs are multiplied by; they are added up then.
        metrics : list of str or Metric, optional
            Computed under the mask, without sample_weight. For several outputs a list of such lists, or a dict.
        weighted_metrics : the same, with sample_weight

        Raises
        ------
        ValueError, TypeError
            Unknown name, a number of entries that does not fit, or an argument of Keras that is not supported.
        """
        for key, value in refused.items():
            if key not in NOT_SUPPORTED:
                raise TypeError(f"compile: unknown argument {key!r}")
            if value and value != "auto":
                raise ValueError(f"{key}: not supported yet, expected None, received {value!r}")
        names = self.output_names
        if isinstance(loss, (list, tuple, dict)):
            chosen = [None if one is None else losses.get(one) for one in per_part(loss, names, "loss")]
        else:
            chosen = [None if loss is None else losses.get(loss) for _ in names]
        weights = [1.0 if w is None else float(w) for w in per_part(loss_weights, names, "loss_weights")]
        wanted = self._metrics_of(metrics, "metrics"), self._metrics_of(weighted_metrics, "weighted_metrics")
        self.optimizer = optimizers.get(optimizer)
        self.loss = chosen[0] if len(names) == 1 else None if loss is None else chosen
        self._losses, self._loss_weights = chosen, weights
        self._metrics, self._weighted_metrics = wanted

    def _metrics_of(self, given, argument):
        """A list of metrics for each output."""
        names = self.output_names
        if len(names) > 1 or given is None or isinstance(given, dict):
            given = per_part(given, names, argument)
        elif isinstance(given, (list, tuple)):
            given = [given]
        else:
            raise TypeError(f"{argument}: expected a list, received {given!r}")
        lists = [[] if g is None else list(g) if isinstance(g, (list, tuple)) else [g] for g in given]
        for metric in (m for some in lists for m in some):
            metrics.get(metric, (1, 2), (1, 2))  # raises if unknown
        return lists

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
        batch_size = _count(32 if batch_size is None else batch_size, "batch_size")
        one_array = type(x) is np.ndarray and mask is None and self._input_keys is self._output_keys is None
        if one_array and x.dtype.kind == "f" and x.ndim > 1 and 0 < len(x) <= batch_size:
            return self._run(x, None, False)[0]  # the shortest way, for single steps
        rows = self._rows(x, None, mask, None)
        parts = []
        for batch in rows.in_order(batch_size):
            parts.append(self._run(*self._inputs_of(rows.take(batch)), False)[0])
        outputs = join(parts)
        return dict(zip(self._output_keys, outputs, strict=True)) if type(self._output_keys) is tuple else outputs

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
        self._check_compiled("test_on_batch")
        rows = self._rows(x, y, mask, sample_weight)
        return _logs(self._evaluate(rows, max(len(rows), 1)), return_dict)

    def predict_on_batch(self, x, *, mask=None):
        """Outputs of one batch."""
        return self.predict(x, max(len(self._rows(x, None, mask, None)), 1), mask=mask)

    # ---- steps ------------------------------------------------------------------------------------------------------
    def _inputs_of(self, batch):
        """(inputs, masks) as this model's call takes them."""
        if self._input_keys is None:
            return batch.x[0], batch.mask[0]
        return batch.x, None if all(m is None for m in batch.mask) else batch.mask

    def _as_list(self, values):
        """Something for each output as a list."""
        if self._output_keys is None:
            return [values]
        return [None] * len(self.output_names) if values is None else list(values)

    def _train_step(self, batch, scores, whole_steps):
        with Recording() as recording:
            outputs, masks = self._run(*self._inputs_of(batch), True)
        call = recording.inner[self][-1]
        call.need_x = False
        on_logits = self._losses_on_logits()
        of_logits = [loss is not None for loss in on_logits]
        call.grad_is_of_logits = of_logits[0] if self._output_keys is None else of_logits
        results = self._results(batch, outputs, masks)
        grads = [
            score.train(result, loss, logits)
            for score, result, loss, logits in zip(
                scores.outputs, results, on_logits, self._as_list(call.logits), strict=True
            )
        ]
        weights, trained = scores.weights()
        for v in weights:
            v.gradient = None
        with recording.backwards():
            self.backward(grads[0] if self._output_keys is None else grads)
        scores.add_regularization(with_gradients=True)
        if trained:
            gradients = [np.zeros(v.shape, v.dtype) if v.gradient is None else v.gradient for v in trained]
            with whole_steps.step():
                self.optimizer.apply(gradients, trained)
        scores.measure(results)

    def _test_step(self, batch, scores):
        on_logits = self._losses_on_logits()
        logits = None
        if any(loss is not None for loss in on_logits):
            outputs, masks, logits = self._run_with_logits(*self._inputs_of(batch))
        else:
            outputs, masks = self._run(*self._inputs_of(batch), False)
        results = self._results(batch, outputs, masks)
        for score, result, loss, z in zip(scores.outputs, results, on_logits, self._as_list(logits), strict=True):
            score.test(result, loss, z)
        scores.add_regularization()
        scores.measure(results)

    def _results(self, batch, outputs, masks):
        """A Result for each output: targets and weights in the form of the outputs."""
        results = []
        parts = zip(
            self.output_names, self._as_list(outputs), self._as_list(masks), batch.y, batch.sample_weight, strict=True
        )
        for name, output, mask, y, weight in parts:
            of = f" of {name}" if len(self.output_names) > 1 else ""
            y, weight = align(y, output, mask, f"y{of}"), align(weight, output, mask, f"sample_weight{of}")
            results.append(Result(output, mask, y, weight))
        return results

    def _losses_on_logits(self):
        """For each output the loss that takes its logits, if it comes from the activation that belongs to it, else
        None."""
        return [
            self._on_logits(*pair) for pair in zip(self._losses, self._as_list(self.output_activation), strict=True)
        ]

    @staticmethod
    def _on_logits(loss, output_activation):
        activation = getattr(loss, "activation", None)
        if activation is None or activation != output_activation:
            return None
        if loss.from_logits:
            warnings.warn(
                f"the loss has from_logits=True, but the model ends in {activation}: the logits before it are used",
                stacklevel=6,
            )
        return loss.on_logits()

    def _validation_rows(self, data, mask):
        if not isinstance(data, (list, tuple)) or len(data) not in (2, 3):
            raise ValueError(
                f"validation_data: expected (x, y) or (x, y, sample_weight), received {type(data).__name__}"
            )
        return self._rows(data[0], data[1], mask, data[2] if len(data) == 3 else None)

    def _rows(self, x, y, mask, sample_weight):
        """Checked; lists are stacked only where the model declares inputs (B,F), which are no sequences."""
        x_names, stack = ["x"], False
        if self._input_keys is not None:
            names = self.input_names
            x_names = [f"x[{name!r}]" for name in names]
            x, mask = per_part(x, names, "x"), per_part(mask, names, "mask")
        else:
            shape = None if self._shape_is_guess else self.input_shape
            x = x[self.input_names[0]] if isinstance(x, dict) and set(x) == set(self.input_names) else x
            if (
                isinstance(x, (list, tuple))
                and not len(x)
                and self.input_shape is not None
                and len(self.input_shape) > 2
            ):
                x = Ragged(np.zeros((0, *self.input_shape[2:]), np.float32), [0])
            stack = shape is not None and len(shape) == 2 and shape[1] is not None
            x, mask = [x], [mask]
        names = self.output_names
        y_names = ["y"] if len(names) == 1 else [f"y[{name!r}]" for name in names]
        several = len(names) > 1
        y = per_part(y, names, "y") if several or isinstance(y, dict) else [y]
        if several or isinstance(sample_weight, dict):
            sample_weight = per_part(sample_weight, names, "sample_weight", share=True)
        else:
            sample_weight = [sample_weight]
        return Rows(x, y, mask, sample_weight, x_names, y_names, stack)

    def _check_compiled(self, method):
        if self.optimizer is None or self.loss is None:
            what = "compile(optimizer, loss)" if self.optimizer is None else "compile with a loss"
            raise ValueError(f"{self.name}.{method}: expected a call of {what} before it")
        if len(self._losses) != len(self.output_names):
            raise ValueError(f"{self.name}.{method}: expected another compile, the outputs have changed since")


def _logs(logs, return_dict):
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def _count(n, name, minimum=1):
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < minimum:
        raise ValueError(f"{name}: expected a whole number of {minimum} or more, received {n!r}")
    return int(n)
