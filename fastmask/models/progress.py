"""What fit, evaluate and predict show while they run, and how they are interrupted."""

import signal
import sys
import threading
import time

import numpy as np

from fastmask.callbacks import Callback


class Progress(Callback):
    """Shows how far fit, evaluate or predict has come.

    Parameters
    ----------
    verbose : "auto", 0, 1 or 2
        1 and "auto": a bar if tqdm is installed, else as 2, a line at the end. 0: nothing.
    what : "epoch", "test" or "predict"
        What begins and ends where it is shown: a bar or a line for each epoch of fit, or for evaluate or predict.

    Notes
    -----
    Methods are given to the hooks that are needed and no others, so that logs are computed only if they are shown. As a
    context manager it leaves the bar as it is after an error or Ctrl-C.
    """

    def __init__(self, verbose, what):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(f'verbose: expected "auto", 0, 1 or 2, received {verbose!r}')
        self.what, self.bar = what, None
        self._tqdm = _tqdm() if verbose in ("auto", 1) else None
        if verbose:
            setattr(self, f"on_{what}_begin", self._begin)
            setattr(self, f"on_{what}_end", self._end)
        if self._tqdm:
            setattr(self, "on_train_batch_end" if what == "epoch" else f"on_{what}_batch_end", self._step)

    def _begin(self, *args):
        self.started = time.perf_counter()
        self.title = f"epoch {args[0] + 1}/{self.params['epochs']}" if self.what == "epoch" else self.what
        if self._tqdm:
            self.bar = self._tqdm(total=self.params["steps"], desc=self.title, unit="batch", file=sys.stderr)

    def _step(self, batch, logs):
        if self.what != "predict":
            self.bar.set_postfix_str(format_logs(logs), refresh=False)
        self.bar.update()

    def _end(self, *args):
        logs = format_logs(args[-1])
        if self.bar is not None:
            self.bar.set_postfix_str(logs)
            self.bar.close()
            self.bar = None
        else:
            print(f"{self.title}  {time.perf_counter() - self.started:.1f} s  {logs}".rstrip(), flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()


def _tqdm():
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


def format_logs(logs):
    return "  ".join(f"{name} {_format(value)}" for name, value in logs.items())


def _format(value):
    if isinstance(value, str):  # a callback's
        return value
    if np.ndim(value):  # a metric with a value for each class
        return f"[{' '.join(map(_format, np.ravel(value)))}]"
    return f"{value:.4g}" if value < 1e-3 else f"{value:.4f}"


class WholeSteps:
    """While a step changes the weights Ctrl-C waits for its end, so that the weights are always those after a whole
    step.

    with WholeSteps() as whole_steps:
        ...
        with whole_steps.step():
            optimizer.apply(...)
    """

    def __enter__(self):
        self._inside, self._interrupted, self._previous = False, None, None
        if threading.current_thread() is threading.main_thread():  # only there are signals handled
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error):
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number, frame):
        if self._inside:
            self._interrupted = number, frame
        else:
            self._previous(number, frame)

    def step(self):
        return _Step(self)


class _Step:
    def __init__(self, owner):
        self.owner = owner

    def __enter__(self):
        self.owner._inside = True

    def __exit__(self, *error):
        self.owner._inside = False
        if self.owner._interrupted is not None:
            signal_and_frame, self.owner._interrupted = self.owner._interrupted, None
            self.owner._previous(*signal_and_frame)
