"""Loss and metrics while a model runs: what callbacks and a progress line see and what fit and evaluate return."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from fastmask import metrics
from fastmask.models.data import align
from fastmask.ragged import Ragged


class Result(NamedTuple):
    """What one output of a model gave for a batch, and what it should have been."""

    output: object
    mask: object
    y: object
    weight: object


class Scores:
    """Loss and metrics of an epoch, each a mean over valid steps: those of every output, and their sum. What is asked
    of the model (its weights, which are trained, what its losses work on) is asked once an epoch.

    Parameters
    ----------
    model : Model
    class_weights : ClassWeights, optional
        For a model with one output.
    """

    def __init__(self, model, class_weights=None):
        self.model, self.class_weights = model, class_weights
        self.names = model.output_names
        self.outputs = [
            OutputScore(loss, weight, metrics, weighted, name if len(self.names) > 1 else "")
            for loss, weight, metrics, weighted, name in zip(
                model._losses, model._loss_weights, model._metrics, model._weighted_metrics, self.names, strict=True
            )
        ]
        self.on_logits = model._losses_on_logits()  # for each output the loss of its logits, None where it has none
        self.batches = 0
        self._penalty, self._rows = 0.0, 0

    @cached_property
    def weights(self):
        """All weights of the model."""
        return self.model.weights

    @cached_property
    def trained(self):
        """Those that are trained."""
        return self.model.trainable_weights

    def results(self, batch, outputs, masks):
        """A Result for each of the outputs (a list): targets and weights in their form."""
        results = []
        parts = zip(self.outputs, outputs, masks, batch.y, batch.sample_weight, strict=True)
        for score, output, mask, y, weight in parts:
            of = f" of {score.name}" if score.name else ""
            y, weight = align(y, output, mask, f"y{of}"), align(weight, output, mask, f"sample_weight{of}")
            if self.class_weights is not None and y is not None:
                weight = self.class_weights.times(weight, y, output)
            results.append(Result(output, mask, y, weight))
        return results

    def train(self, results, logits):
        """Take in the losses of a batch; returns the gradient of each output, or of its logits: see `on_logits`."""
        parts = zip(self.outputs, results, self.on_logits, logits, strict=True)
        return [score.train(result, loss, z) for score, result, loss, z in parts]

    def test(self, results, logits):
        """Take in the losses of a batch."""
        for score, result, loss, z in zip(self.outputs, results, self.on_logits, logits, strict=True):
            score.test(result, loss, z)

    def add_penalties(self, rows, with_gradients=False):
        """Take in the penalties of the weights in a batch of so many rows, by which it counts, and add their gradients
        to those that are there already."""
        rows = max(rows, 1)
        self._rows += rows
        for v in self.trained:
            if v.regularizer is not None:
                self._penalty += rows * v.regularizer(v.value)
                if with_gradients:
                    own = np.asarray(v.regularizer.gradient(v.value), v.dtype)
                    v.gradient = own if v.gradient is None else v.gradient + own  # with a RowsGradient: a dense one

    def measure(self, results):
        """Let the metrics see a batch."""
        self.batches += 1
        for score, result in zip(self.outputs, results, strict=True):
            score.measure(result)

    def result(self):
        """Loss and metrics so far, by name."""
        with_loss = [score for score in self.outputs if score.loss is not None]
        total = sum(score.weight * score.loss_so_far() for score in with_loss)
        logs = {"loss": total + (self._penalty / self._rows if self._rows else 0.0)}
        if len(self.outputs) > 1:
            logs |= {f"{score.name}_loss": score.loss_so_far() for score in with_loss}
        for score in self.outputs:
            for metric, _, name in score.metrics or ():
                logs[name] = metric.result()
        return logs

    def result_names(self):
        """The names in `result`, before any batch."""
        names = ["loss"]
        if len(self.outputs) > 1:
            names += [f"{score.name}_loss" for score in self.outputs if score.loss is not None]
        return names + [name for score in self.outputs for _, _, name in score.make_metrics((1, 2), (1, 2))]


class OutputScore:
    """Loss and metrics of one output; `name` is "" for the only one of a model."""

    def __init__(self, loss, weight, metrics, weighted_metrics, name):
        self.loss, self.weight, self.name = loss, weight, name
        self._wanted = (metrics, False), (weighted_metrics, True)
        self.total = self.divisor = 0.0
        self.metrics = None  # made when the shapes are known: (metric, whether it is weighted, name)

    def train(self, result, on_logits, logits):
        """Take in the loss of a batch; returns the gradient of the output, or with `on_logits` of its logits."""
        if self.loss is None:
            return None
        total, divisor, gradient = (on_logits or self.loss).sums_and_grad(
            self._targets(result), logits if on_logits else result.output, sample_weight=result.weight, mask=result.mask
        )
        self._add(total, divisor)
        if self.weight == 1 or gradient is None:
            return gradient
        if isinstance(gradient, Ragged):
            return gradient.with_values(gradient.values * gradient.dtype.type(self.weight))
        return gradient * gradient.dtype.type(self.weight)

    def test(self, result, on_logits, logits):
        """Take in the loss of a batch."""
        if self.loss is not None:
            predicted = logits if on_logits else result.output
            self._add(
                *(on_logits or self.loss).sums(
                    self._targets(result), predicted, sample_weight=result.weight, mask=result.mask
                )
            )

    def _targets(self, result):
        if result.y is None:
            raise ValueError(f"y: expected targets for {self.name or 'the output'}, which has a loss, received None")
        return result.y

    def _add(self, total, divisor):
        self.total += total
        self.divisor += divisor

    def loss_so_far(self):
        if self.loss.reduction in ("sum", "none", None):  # the loss of an epoch is then a sum, too
            return self.total
        return self.total / self.divisor if self.divisor else 0.0

    def measure(self, result):
        """Let the metrics see a batch."""
        y, output = result.y, result.output
        if y is None:
            return
        if self.metrics is None:
            self.metrics = self.make_metrics(y.shape, output.shape)
            for metric, _, _ in self.metrics:
                metric.reset_state()
        for metric, weighted, _ in self.metrics:
            metric.update_state(y, output, sample_weight=result.weight if weighted else None, mask=result.mask)

    def make_metrics(self, y_shape, output_shape):
        """[(metric, whether it is weighted, name)] for targets and outputs of these shapes."""
        made, prefix = [], f"{self.name}_" if self.name else ""
        for wanted, weighted in self._wanted:
            for one in wanted:
                metric = metrics.get(one, y_shape, output_shape)
                name = f"{prefix}{metric.name}"
                if weighted and any(name == other for _, _, other in made):
                    name = f"{prefix}weighted_{metric.name}"
                made.append((metric, weighted, name))
        return made
