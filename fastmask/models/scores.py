"""Loss and metrics while a model runs: what a progress line shows and what fit and evaluate return."""

from typing import NamedTuple

import numpy as np

from fastmask import metrics
from fastmask.ragged import Ragged


class Result(NamedTuple):
    """What one output of a model gave for a batch, and what it should have been."""

    output: object
    mask: object
    y: object
    weight: object


class Scores:
    """Loss and metrics of an epoch, each a mean over valid steps: those of every output, and their sum."""

    def __init__(self, model):
        self.model = model
        several = len(model.output_names) > 1
        self.outputs = [
            OutputScore(loss, weight, metrics, weighted, f"{name}_" if several else "")
            for loss, weight, metrics, weighted, name in zip(
                model._losses,
                model._loss_weights,
                model._metrics,
                model._weighted_metrics,
                model.output_names,
                strict=True,
            )
        ]
        self._weights = None
        self._penalty, self._batches = 0.0, 0

    def weights(self):
        """All weights of the model and those that are trained; looked up once an epoch."""
        if self._weights is None:
            self._weights = self.model.weights, self.model.trainable_weights
        return self._weights

    def add_regularization(self, with_gradients=False):
        """Penalties of the weights, and their gradients to those that are there already."""
        self._batches += 1
        for v in self.weights()[1]:
            if v.regularizer is not None:
                self._penalty += v.regularizer(v.value)
                if with_gradients:
                    own = np.asarray(v.regularizer.gradient(v.value), v.dtype)
                    v.gradient = own if v.gradient is None else v.gradient + own

    def measure(self, results):
        """Let the metrics see a batch."""
        for score, result in zip(self.outputs, results, strict=True):
            score.measure(result)

    def running(self):
        """The loss so far."""
        total = sum(score.weight * score.loss_so_far() for score in self.outputs if score.loss is not None)
        return {"loss": total + (self._penalty / self._batches if self._batches else 0.0)}

    def result(self):
        logs = self.running()
        if len(self.outputs) > 1:
            logs |= {f"{s.prefix}loss": s.loss_so_far() for s in self.outputs if s.loss is not None}
        for score in self.outputs:
            for metric, _, name in score.metrics or ():
                logs[name] = metric.result()
        return logs


class OutputScore:
    """Loss and metrics of one output."""

    def __init__(self, loss, weight, metrics, weighted_metrics, prefix):
        self.loss, self.weight, self.prefix = loss, weight, prefix
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
            raise ValueError(
                f"y: expected targets for {self.prefix[:-1] or 'the output'}, which has a loss, received None"
            )
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
            self.metrics = self._make(y, output)
        for metric, weighted, _ in self.metrics:
            metric.update_state(y, output, sample_weight=result.weight if weighted else None, mask=result.mask)

    def _make(self, y, output):
        made = []
        for wanted, weighted in self._wanted:
            for one in wanted:
                metric = metrics.get(one, y.shape, output.shape)
                metric.reset_state()
                name = f"{self.prefix}{metric.name}"
                if weighted and any(name == other for _, _, other in made):
                    name = f"{self.prefix}weighted_{metric.name}"
                made.append((metric, weighted, name))
        return made
