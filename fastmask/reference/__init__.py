"""The library's functions in plain NumPy, written to be read beside the equations.

Same names, arguments and results as in ``fastmask.ops``, for dense arrays in float32 or float64. Nothing here knows of
threads, tiles or compiled code, and nothing here is fast: it is what the kernels are checked against.
"""
