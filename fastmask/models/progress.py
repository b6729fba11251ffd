"""What fit shows while it runs: a tqdm bar if that is installed, else a line an epoch."""

import signal
import sys
import threading
import time


class Progress:
    """Progress of one epoch; verbose is 0 (nothing), 1 or "auto" (a bar, or a line without tqdm) or 2 (a line)."""

    def __init__(self, verbose, epoch, epochs, batches):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(f'verbose: expected "auto", 0, 1 or 2, received {verbose!r}')
        self.verbose, self.title, self.started = verbose, f"epoch {epoch}/{epochs}", time.perf_counter()
        self.bar = None
        if verbose in ("auto", 1):
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=batches, desc=self.title, unit="batch", file=sys.stderr)

    def step(self, logs):
        if self.bar is not None:
            self.bar.set_postfix_str(format_logs(logs), refresh=False)
            self.bar.update()

    def end(self, logs):
        if self.bar is not None:
            self.bar.set_postfix_str(format_logs(logs))
            self.bar.close()
        elif self.verbose:
            print(f"{self.title}  {time.perf_counter() - self.started:.1f} s  {format_logs(logs)}", flush=True)

    def stop(self):
        """Leave the bar as it is, after an error or Ctrl-C."""
        if self.bar is not None:
            self.bar.close()


def format_logs(logs):
    return "  ".join(f"{name} {value:.4g}" if value < 1e-3 else f"{name} {value:.4f}" for name, value in logs.items())


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
