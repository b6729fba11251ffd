"""Threads: helpers that work through a caller's blocks, and stand-ins for the main thread, so that Ctrl-C reaches it
while a kernel runs long or is compiled.
"""

import ctypes
import os
import queue
import sys
import threading
import time

# In a launch's block counter: no block is begun any more, and long blocks end early (simd.py: stopped).
STOPPED = 1 << 62

_STATE, _LIMIT, _COMING, _SLOT_WORDS = 0, 2, 7, 8  # words of a launch's slot, as in _launch.py

LOST = "forked by a signal handler while a kernel was running: in the child its result is lost"

_void = (ctypes.c_int64 * 2)()  # where numba functions put a return value and an exception: ours have neither
RET, EXC = ctypes.addressof(_void), ctypes.addressof(_void) + 8


class Pool:
    """Daemon threads that help a caller through its blocks. The protocol is native (_launch.py: lead, serve) and needs
    no GIL; Python only wakes and parks helpers.

    A helper enters a launch only while the caller is inside; the caller leaves when all who entered have left, so
    nothing of the launch outlives it. One launch at a time: a second caller has no cores to win and works alone. A
    helper stays awake for SPINS rounds after a launch (about 0.2 ms), then sleeps on its lock.

    On Linux helpers are kept off the caller's CPU: the scheduler likes to wake a thread where its waker runs, and moves
    it only after milliseconds; a kernel of 0.2 ms then took 0.4 ms instead of 0.1.

    native : function (name of a function of _launch.py, number of int64 words it takes) -> the compiled function
    """

    SPINS = 8000

    def __init__(self, native):
        # An RLock: Ctrl-C between acquire and try leaves it locked, and then at least this thread can go on.
        self._busy = threading.RLock()
        self._slot = (ctypes.c_int64 * _SLOT_WORDS)()
        self._address = ctypes.addressof(self._slot)
        self._bells, self._awake, self._native_ids = [], [], []  # of each helper; awake: words that it sets
        self._native = native
        self._lead = self._serve = self._current_cpu = self._kept_off = None
        self.forked = False  # this is the copy in a child, where the helpers are not

    def _help(self, awake, bell, ready):
        self._native_ids.append(threading.get_native_id())
        ready.release()
        while True:
            bell.acquire()
            self._serve(RET, EXC, self._address, ctypes.addressof(awake), self.SPINS)

    def _start(self, helpers):
        if self._lead is None:
            self._serve = self._native("serve", 3)
            if hasattr(os, "sched_setaffinity"):
                self._current_cpu = getattr(ctypes.PyDLL(None), "sched_getcpu", None)
            self._lead = self._native("lead", 6)
        while len(self._bells) < helpers:
            bell, ready, awake = threading.Lock(), threading.Lock(), ctypes.c_int64()
            bell.acquire()
            ready.acquire()
            if not start_thread(self._help, awake, bell, ready):
                break
            ready.acquire()
            self._awake.append(awake)
            self._bells.append(bell)
        self._kept_off = None

    def _keep_off(self, cpu):
        """Let helpers run on every CPU of this process but the caller's."""
        self._kept_off = cpu
        others = os.sched_getaffinity(0) - {cpu}
        if others:
            for native_id in self._native_ids:
                try:
                    os.sched_setaffinity(native_id, others)
                except OSError:  # not allowed in this container: slower, nothing else
                    self._current_cpu = None

    def run(self, helpers, kernel, args, counter, blocks, alone):
        if not self._busy.acquire(blocking=False):
            alone(RET, EXC, kernel, args, counter, blocks)
            return
        try:
            if self._slot[_STATE]:  # called from a signal handler, while this thread waits for helpers of a launch
                alone(RET, EXC, kernel, args, counter, blocks)
                return
            if self._lead is None or len(self._bells) < helpers:
                self._start(helpers)
                helpers = min(helpers, len(self._bells))
            if self._current_cpu is not None:
                cpu = self._current_cpu()
                if cpu != self._kept_off:
                    self._keep_off(cpu)
            self._slot[_LIMIT], self._slot[_COMING] = helpers, 1
            for awake, bell in zip(self._awake[:helpers], self._bells, strict=False):
                if not awake.value and bell.locked():  # where it is not, the helper is about to come
                    bell.release()
            try:
                self._lead(RET, EXC, self._address, kernel, args, counter, blocks, self.SPINS)
            finally:
                self._wait()
        finally:
            self._wait()  # again: Ctrl-C may have come before the other one had begun
            self._busy.release()

    def _wait(self):
        """Until no helper is inside. Ctrl-C must not free memory that helpers still write: it is raised afterwards."""
        interrupted = None
        self._slot[_COMING] = 0
        while self._slot[_STATE]:
            if self.forked:
                raise RuntimeError(LOST)
            try:
                time.sleep(5e-5)
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


class StandIns:
    """Threads that do work for the main thread while that one waits where signals reach it.

    Signals are handled by the main thread, between two operations of Python. A launch is one operation, however long:
    Ctrl-C would wait for its end. Compiling is many, but numba is left unusable if one of them is interrupted. Waiting
    is one operation, too, but it ends when a signal comes.
    """

    def __init__(self):
        self._idle = []  # queues of threads that have nothing to do
        self._jobs = set()  # what is being done
        self.forked = False  # this is the copy in a child, where the threads are not

    def run(self, work, stop=None):
        """What work() returns or raises on another thread.

        If a signal handler raises meanwhile, its exception goes on: at once, and the work is done to its end all the
        same; or, with `stop`, when the work has ended, for which stop() is called, more than once.
        """
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = queue.SimpleQueue()
            if not start_thread(self._serve, jobs):
                return work()
        job = _Job(work)
        try:
            try:
                jobs.put(job)
                while not job.over:
                    job.bell.acquire(timeout=0.1)  # on Windows Ctrl-C is seen only between two waits
                    if self.forked:
                        raise RuntimeError(LOST)
            finally:
                self._end(job, stop)
        finally:
            self._end(job, stop)  # again: Ctrl-C may have come before the other one had begun
        if job.error is not None:
            raise job.error
        return job.result

    def _end(self, job, stop):
        """Until nobody works on the job, nor ever will. Another Ctrl-C is raised afterwards."""
        interrupted = None
        while stop is not None and not (job.over or self.forked or job.claim("caller")):
            try:
                stop()  # again and again: the work may be about to begin
                job.bell.acquire(timeout=1e-3)
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _serve(self, jobs):
        while True:
            job = jobs.get()
            if job.claim("stand-in"):
                self._jobs.add(job)
                job.do()
                self._jobs.discard(job)
            del job  # and with it the arrays of the caller
            self._idle.append(jobs)

    def finish(self):
        """Wait for what interrupted callers left behind: the end of a process must not come into compiling."""
        for job in list(self._jobs):
            job.bell.acquire(timeout=30)


class _Job:
    """A piece of work that is done once, or given up before."""

    def __init__(self, work):
        self._work, self._owner = work, {}
        self.result = self.error = None
        self.over = False
        self.bell = threading.Lock()  # free when it is over
        self.bell.acquire()

    def claim(self, who):
        """Whether the job is `who`'s: the first one's to ask. One atomic operation, which may be repeated."""
        return self._owner.setdefault("is", who) == who

    def do(self):
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error
        self.over = True
        self.bell.release()


def start_thread(target, *args):
    """Start a daemon thread; False if there are no more to be had, or the interpreter is shutting down."""
    try:
        threading.Thread(target=target, args=args, daemon=True, name="fastmask").start()
    except RuntimeError:
        return False
    return True


def is_main():
    """Whether this is the thread that signals interrupt."""
    return threading.get_ident() == threading.main_thread().ident and not sys.is_finalizing()
