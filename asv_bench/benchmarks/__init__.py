"""Benchmarks for airspeed velocity: one file a stem, named like the files in fastmask/ops.

A class is a group. Its params are listed smallest first: the tests run the first of each. setup() makes the data and
calls once exactly what is timed, so that compiling is never counted (startup.py is about that). time_<op> calls the op
it is named after; tests/test_bench.py checks this, and that no public op goes without a benchmark.
"""
