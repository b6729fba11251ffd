"""compile, fit, evaluate, predict: the training loop of every model."""

import math
import warnings

import numpy as np

from fastmask import initializers, losses, metrics, optimizers
from fastmask.callbacks import CallbackList
from fastmask.checks import check_flag, check_number
from fastmask.layers.calls import Recording
from fastmask.models.batches import batches_of, gives_batches, rows_of
from fastmask.models.data import ClassWeights, apart, join, per_part
from fastmask.models.progress import Progress, WholeSteps
from fastmask.models.scores import Scores
from fastmask.ops.mask import check_count
from fastmask.variable import Changes


class Trainer:
    """The part of a model that trains; mixed into models, which are layers."""

    optimizer = loss = None
    stop_training = stop_evaluating = stop_predicting = False  # set by callbacks
    _metrics = _weighted_metrics = ()
    input_shape = None  # of the model's inputs, once known
    _shape_is_guess = False
    _input_keys = _output_keys = None  # of models with several inputs or outputs: not None
    input_names = output_names = ("",)

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Say how to train.

        Parameters
        ----------
        optimizer : str or Optimizer
            A name makes a new one. An Optimizer goes on from the state it has.
        loss : str or Loss; for several outputs one for all, a list, or a dict by the names of the outputs
            None in a list, or a name left out of a dict: that output has no loss. If the model ends in softmax or
            sigmoid and this is the matching cross-entropy, it works on the logits.
        loss_weights : list or dict of float, optional
            What the losses of the outputs are multiplied by; they are added up then.
        metrics : list of str or Metric, optional
            Computed under the mask, without sample_weight. For several outputs a list of such lists, or a dict.
        weighted_metrics : the same, with sample_weight and class_weight
        run_eagerly : bool
        steps_per_execution : 1
        jit_compile, auto_scale_loss : bool
            Keras' arguments. More than 1 step is not supported, the others change nothing here.

        Raises
        ------
        ValueError, TypeError
            Unknown name, a number of entries that does not fit, or an argument of Keras that is not supported.
        """
        if steps_per_execution not in (None, 1, "auto"):
            raise ValueError(f"steps_per_execution: not supported, expected 1, received {steps_per_execution!r}")
        names = self.output_names
        if isinstance(loss, (list, tuple, dict)):
            chosen = [None if one is None else losses.get(one) for one in per_part(loss, names, "loss")]
        else:
            chosen = [None if loss is None else losses.get(loss) for _ in names]
        weights = per_part(loss_weights, names, "loss_weights")
        weights = [1.0 if w is None else check_number(w, "loss_weights", low=-math.inf) for w in weights]
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
            is_per_output = len(given) == 1 and isinstance(given[0], (list, tuple))
            given = given if is_per_output else [given]
        else:
            raise TypeError(f"{argument}: expected a list, received {given!r}")
        lists = [[] if g is None else list(g) if isinstance(g, (list, tuple)) else [g] for g in given]
        for metric in (m for some in lists for m in some):
            metrics.get(metric, (1, 2), (1, 2))  # raises if unknown
        return lists

    @property
    def metrics_names(self):
        """Names of what `evaluate` returns, in its order."""
        self._check_compiled("metrics_names")
        return Scores(self).result_names()

    def reset_metrics(self):
        """Let the Metric objects given to `compile` forget what they saw; done by itself before each epoch, evaluation
        and call of train_on_batch and test_on_batch."""
        for metric in (m for lists in (self._metrics, self._weighted_metrics) for some in lists for m in some):
            if isinstance(metric, metrics.Metric):
                metric.reset_state()

    # ---- the three loops --------------------------------------------------------------------------------------------
    def fit(
        self,
        x=None,
        y=None,
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
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
        *,
        mask=None,
        validation_mask=None,
        bucket=False,
    ):
        """Train.

        Parameters
        ----------
        x : ndarray (B,T,...), Ragged or list of arrays; or batches
            A list of arrays becomes a Ragged. Batches: a generator or another iterator, an iterable such as a PyTorch
            DataLoader, or an object with `__len__` and `__getitem__` such as a keras.utils.PyDataset. Each batch is a
            tuple (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask), None where there is nothing.
        y : ndarray, Ragged or list
            A target for each row or each step, as the model's outputs are.
        batch_size : int
            Default: 32, or what makes steps_per_epoch batches of all rows.
        epochs : int
            Number of the last epoch: training goes on from `initial_epoch`.
        verbose : "auto", 0, 1 or 2
            1 and "auto": a progress bar if tqdm is installed, else as 2, a line an epoch. 0: nothing.
        callbacks : Callback, list of Callback or CallbackList
        validation_split : float
            Share of the rows, from the end, to validate on instead of training.
        validation_data : tuple (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask); or batches
        shuffle : bool
            New order of rows in every epoch, from the global seed. Of batches: a new order of those of an object with
            `__getitem__`; others come as they come.
        class_weight : dict, class number -> weight
            For models with one output. Classes that are not in it weigh 1. Targets are class numbers, one for each row
            or step, or one-hot.
        sample_weight : array (B,) for rows, (B,T) or Ragged for steps
            Multiplied by the class weights, if there are some.
        initial_epoch : int
        steps_per_epoch : int
            Batches of an epoch, instead of all. The next epoch goes on where it ended.
        validation_steps : int
            Batches of a validation, instead of all; from the beginning, where the data have one.
        validation_batch_size : int
            Default: batch_size.
        validation_freq : int or list of int
            Validate after every so many epochs, or after these, counted from 1.
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
            Not compiled, no rows, numbers of rows or shapes that do not fit, arguments beside batches that have their
            own.

        Notes
        -----
        The loss of an epoch is weighted by valid steps, so the batch size does not change what it means; with several
        outputs each loss by those of its output. Steps of weight 0 are never read, as under a mask.

        With gradient accumulation (of the optimizer) the weights are changed by the mean of the gradients of n batches:
        the same as in one batch of them all if they have the same number of valid steps. Each batch weighs the same,
        also if it has fewer. What an epoch leaves over is taken on into the next.

        A weight that no loss depends on gets no gradient and stays, with a warning, as in Keras. The gradient of an
        Embedding stays one of rows up to the optimizer, unless a regularizer adds to it.

        If data end before steps_per_epoch, that epoch ends early, with a warning. An iterator, which cannot begin anew,
        ends the training then. Batches are made in this thread: `workers` of a PyDataset are not used.

        After an exception, of a callback too, and after KeyboardInterrupt the weights are those after the last whole
        step; on_train_end is not called, as in Keras.

        Differences from Keras: class_weight and sample_weight go together; class_weight also weighs class numbers
        (B,T); a change of `trainable` takes effect at the next epoch, without another compile.
        """
        self._check_compiled("fit")
        epochs, initial_epoch = check_count(epochs, "epochs"), check_count(initial_epoch, "initial_epoch")
        validates = _validates(validation_freq)
        check_flag(bucket, "bucket")
        validation_batch_size = _steps(validation_batch_size, "validation_batch_size")
        class_weights = self._class_weights(class_weight)
        training = batches_of(
            *(self, x, y, sample_weight, mask),
            batch_size=batch_size,
            steps=_steps(steps_per_epoch, "steps_per_epoch"),
            shuffle=shuffle,
            bucket=bucket,
        )
        validation, validation_steps = None, _steps(validation_steps, "validation_steps")
        if validation_data is not None:
            validation = self._validation_batches(
                validation_data, validation_mask, validation_batch_size, batch_size, validation_steps
            )
        elif validation_split:
            size = batch_size if validation_batch_size is None else validation_batch_size
            training, validation = training.split(validation_split, size, validation_steps)
        if training.rows is not None and not len(training.rows):
            raise ValueError("x: expected at least one row to train on, received none")
        training.check_lasts(range(initial_epoch, epochs), "steps_per_epoch")
        if validation is not None:
            validation.check_lasts(filter(validates, range(initial_epoch, epochs)), "validation_steps")

        progress = Progress(verbose, "epoch")
        callbacks = self._callback_list(callbacks, progress, verbose, epochs, training.steps, add_history=True)
        training.generator = initializers.new_generator()
        self.stop_training = False
        logs = None
        with WholeSteps() as whole_steps, progress:
            callbacks.on_train_begin()
            for epoch in range(initial_epoch, epochs):
                callbacks.on_epoch_begin(epoch)
                scores = self._train_epoch(training, class_weights, callbacks, whole_steps)
                if not scores.batches:  # an iterator had ended with the epoch before
                    break
                logs = scores.result()
                if validation is not None and validates(epoch):
                    results = self._evaluate(validation, callbacks)
                    logs |= {f"val_{name}": value for name, value in results.items()}
                callbacks.on_epoch_end(epoch, logs)
                if self.stop_training or training.exhausted:
                    break
            callbacks.on_train_end(logs)
        return callbacks.history

    def _train_epoch(self, batches, class_weights, callbacks, whole_steps):
        scores = Scores(self, class_weights)
        wanted = callbacks.listens("on_train_batch_end")
        for i, batch in enumerate(batches.epoch()):
            callbacks.on_train_batch_begin(i)
            self._train_step(batch, scores, whole_steps)
            callbacks.on_train_batch_end(i, scores.result() if wanted else None)
            if self.stop_training:
                break
        return scores

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose=0,
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        *,
        mask=None,
    ):
        """Loss and metrics on given data; arguments as `fit`'s.

        steps : int
            Number of batches, instead of all.

        Returns
        -------
        float, list of float or dict
            The loss; with metrics a list, the loss first (see `metrics_names`); with return_dict a dict by name.
        """
        self._check_compiled("evaluate")
        check_flag(return_dict, "return_dict")
        batches = batches_of(self, x, y, sample_weight, mask, batch_size=batch_size, steps=_steps(steps, "steps"))
        progress = Progress(verbose, "test")
        callbacks = self._callback_list(callbacks, progress, verbose, 1, batches.steps)
        with progress:
            return _logs(self._evaluate(batches, callbacks), return_dict)

    def _evaluate(self, batches, callbacks):
        scores = Scores(self)
        wanted = callbacks.listens("on_test_batch_end")
        self.stop_evaluating = False
        callbacks.on_test_begin()
        for i, batch in enumerate(batches.from_start()):
            callbacks.on_test_batch_begin(i)
            self._test_step(batch, scores)
            callbacks.on_test_batch_end(i, scores.result() if wanted else None)
            if self.stop_evaluating:
                break
        logs = scores.result()
        callbacks.on_test_end(logs)
        return logs

    def predict(self, x, batch_size=None, verbose=0, steps=None, callbacks=None, *, mask=None):
        """The outputs for all rows, in their order; arguments as `fit`'s and `evaluate`'s. Batches may be x alone or
        (x,), what else there is in them is passed over, except for a mask.

        Returns
        -------
        ndarray, or Ragged
            A Ragged if x is a Ragged or a list of arrays and the outputs are one for each step.
        """
        if mask is steps is callbacks is None and not verbose and self._is_one_batch(x, batch_size):
            return apart(self._run(x, None, False)[0], [x])  # the shortest way, for single steps
        batches = batches_of(self, x, mask=mask, batch_size=batch_size, steps=_steps(steps, "steps"), targets=False)
        progress = Progress(verbose, "predict")
        callbacks = self._callback_list(callbacks, progress, verbose, 1, batches.steps)
        wanted = callbacks.listens("on_predict_batch_end")
        self.stop_predicting = False
        parts = []
        with progress:
            callbacks.on_predict_begin()
            for i, batch in enumerate(batches.from_start()):
                callbacks.on_predict_batch_begin(i)
                parts.append(apart(self._run(*self._inputs_of(batch), False)[0], batch.x))
                callbacks.on_predict_batch_end(i, {"outputs": self._named_outputs(parts[-1])} if wanted else None)
                if self.stop_predicting:
                    break
            callbacks.on_predict_end()
        return self._named_outputs(join(parts))

    def _is_one_batch(self, x, batch_size):
        """Whether x is an array that the model takes as it is."""
        if type(x) is not np.ndarray or x.dtype.kind != "f" or x.ndim < 2 or not len(x):
            return False
        size = 32 if batch_size is None else check_count(batch_size, "batch_size", minimum=1)
        return self._input_keys is self._output_keys is None and len(x) <= size

    # ---- single batches ---------------------------------------------------------------------------------------------
    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False, *, mask=None):
        """One step on one batch. Returns the loss before it, as `evaluate` does, of this batch alone."""
        self._check_compiled("train_on_batch")
        check_flag(return_dict, "return_dict")
        batch = rows_of(self, x, y, sample_weight, mask).batch()
        scores = Scores(self, self._class_weights(class_weight))
        with WholeSteps() as whole_steps:
            self._train_step(batch, scores, whole_steps)
        return _logs(scores.result(), return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False, *, mask=None):
        """Loss and metrics of one batch."""
        self._check_compiled("test_on_batch")
        check_flag(return_dict, "return_dict")
        scores = Scores(self)
        self._test_step(rows_of(self, x, y, sample_weight, mask).batch(), scores)
        return _logs(scores.result(), return_dict)

    def predict_on_batch(self, x, *, mask=None):
        """Outputs of one batch."""
        batch = rows_of(self, x, mask=mask).batch()
        return self._named_outputs(self._run(*self._inputs_of(batch), False)[0])

    # ---- what goes in, and who is told ------------------------------------------------------------------------------
    def _validation_batches(self, data, mask, batch_size, default_batch_size, steps):
        if isinstance(data, (tuple, list)) and 2 <= len(data) <= 4:
            x, y, sample_weight, own_mask = (*data, None, None)[:4]
            if mask is not None and own_mask is not None:
                raise ValueError("validation_mask: expected None beside a mask in validation_data, received one")
            return batches_of(
                *(self, x, y, sample_weight, own_mask if mask is None else mask),
                batch_size=default_batch_size if batch_size is None else batch_size,
                steps=steps,
            )
        if not gives_batches(data):
            raise ValueError(
                "validation_data: expected (x, y), (x, y, sample_weight), (x, y, sample_weight, mask) or batches, "
                f"received {type(data).__name__}"
            )
        return batches_of(self, data, mask=mask, batch_size=batch_size, steps=steps, name="validation_data")

    def _class_weights(self, class_weight):
        if not class_weight:
            return None
        if len(self.output_names) > 1:
            raise ValueError(
                "class_weight: expected None for a model with several outputs: give each its sample_weight, in a list "
                f"or a dict by the names {', '.join(self.output_names)}"
            )
        return ClassWeights(class_weight)

    def _callback_list(self, callbacks, progress, verbose, epochs, steps, add_history=False):
        return CallbackList(
            [callbacks, progress] if verbose else callbacks,
            add_history=add_history,
            model=self,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )

    def _check_compiled(self, method):
        if self.optimizer is None or self.loss is None:
            what = "compile(optimizer, loss)" if self.optimizer is None else "compile with a loss"
            raise ValueError(f"{self.name}.{method}: expected a call of {what} before it")
        if len(self._losses) != len(self.output_names):
            raise ValueError(f"{self.name}.{method}: expected another compile, the outputs have changed since")

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

    def _named_outputs(self, outputs):
        """A dict, if that is what the model was given as its outputs."""
        return dict(zip(self._output_keys, outputs, strict=True)) if type(self._output_keys) is tuple else outputs

    def _train_step(self, batch, scores, whole_steps):
        with Changes() as changes:  # without a whole step the forward pass leaves nothing behind, moving averages say
            results = self._backpropagate(batch, scores)
            with whole_steps.step():
                changes.keep()
                if scores.trained:
                    self.optimizer.apply([v.gradient for v in scores.trained], scores.trained)
        scores.measure(results)

    def _backpropagate(self, batch, scores):
        """Gradients of the loss for `v.gradient` of every weight; the results for `scores`."""
        with Recording() as recording:
            outputs, masks = self._run(*self._inputs_of(batch), True)
        call = recording.inner[self][-1]
        call.need_x = False
        of_logits = [loss is not None for loss in scores.on_logits]
        call.grad_is_of_logits = of_logits[0] if self._output_keys is None else of_logits
        results = scores.results(batch, self._as_list(outputs), self._as_list(masks))
        grads = scores.train(results, self._as_list(call.logits))
        for v in scores.weights:
            v.gradient = None
        with recording.backwards():
            self.backward(grads[0] if self._output_keys is None else grads)
        scores.add_penalties(len(batch), with_gradients=True)
        return results

    def _test_step(self, batch, scores):
        logits = None
        if any(scores.on_logits):
            outputs, masks, logits = self._run_with_logits(*self._inputs_of(batch))
        else:
            outputs, masks = self._run(*self._inputs_of(batch), False)
        results = scores.results(batch, self._as_list(outputs), self._as_list(masks))
        scores.test(results, self._as_list(logits))
        scores.add_penalties(len(batch))
        scores.measure(results)

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


def _logs(logs, return_dict):
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def _steps(n, name):
    return None if n is None else check_count(n, name, minimum=1)


def _validates(freq):
    """A function of an epoch, counted from 0, that says whether a validation follows it."""
    if isinstance(freq, (list, tuple, set, range)):
        return lambda epoch: epoch + 1 in freq
    n = check_count(freq, "validation_freq", minimum=1)
    return lambda epoch: (epoch + 1) % n == 0
