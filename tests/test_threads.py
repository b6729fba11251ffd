"""Many Python threads at once: right bits on every launch path and threading layer; nothing aborts, nothing hangs."""

import pytest

from fresh import TINY, cache_files, run

SECONDS = 1  # of each crowd; ten times as long has found nothing more


@pytest.mark.parametrize("others", ["[]", "[fresh.users_numba, fresh.users_blas]"], ids=["alone", "beside others"])
@pytest.mark.parametrize("launch", ["pool", "prange"])
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_eight_threads_do_every_job(layer, launch, others):
    """Also beside a user's own parallel numba function, which starts the threading layer, and NumPy's BLAS."""
    code = f"""
    import fresh
    if {others}:
        fresh.users_function()
    fresh.crowd({SECONDS}, {others})
    """
    least, wrong, errors = run(code, NUMBA_THREADING_LAYER=layer, FASTMASK_LAUNCH=launch)
    assert errors == [] and wrong == {}
    assert least >= 8, "hardly anything was done"


def test_the_number_of_threads_changes_all_the_time():
    code = f"""
    import itertools, time, fresh, fastmask as fm

    def restless(until):
        for n in itertools.cycle(range(1, 8)):
            fm.set_num_threads(n)
            time.sleep(0.001)
            if time.monotonic() > until:
                break

    fresh.crowd({SECONDS}, [restless])
    """
    least, wrong, errors = run(code)
    assert errors == [] and wrong == {} and least >= 8


def test_thread_pool_executor():
    code = """
    import json, fresh
    from concurrent.futures import ThreadPoolExecutor
    want, jobs = fresh.expected(), fresh.jobs()
    with ThreadPoolExecutor(8) as executor:
        futures = [(name, executor.submit(job)) for _ in range(20) for name, job in jobs.items()]
        print(json.dumps([[name for name, future in futures if future.result() != want[name]], len(futures)]))
    """
    assert run(code) == [[], 100]


def test_asyncio_to_thread():
    code = """
    import asyncio, json, fresh
    want, jobs = fresh.expected(), fresh.jobs()
    fresh.always_parallel()

    async def main():
        names = [*jobs] * 8
        found = await asyncio.gather(*(asyncio.to_thread(jobs[name]) for name in names))
        return [name for name, digest in zip(names, found) if digest != want[name]]

    print(json.dumps(asyncio.run(main())))
    """
    assert run(code) == []


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(backend):
    pytest.importorskip("joblib", reason=f"joblib is not installed: not exercised: its {backend} workers")
    code = f"""
    import json, joblib, fresh
    if __name__ == "__main__":
        want = fresh.expected()
        fresh.always_parallel()
        fresh.digests()
        names = [*want] * 4
        found = joblib.Parallel(4, backend="{backend}")(joblib.delayed(fresh.do_job)(name) for name in names)
        print(json.dumps([name for name, digest in zip(names, found) if digest != want[name]]))
    """
    assert run(code) == []


def test_a_new_model_is_called_by_eight_threads_at_once():
    """One of them builds it, and no other sees it half built: that gave the outputs of its first layers alone."""
    code = """
    import json, sys, numpy as np, fresh, fastmask as fm
    from fastmask import layers
    sys.setswitchinterval(1e-6)
    x, wrong, raised = np.ones((2, 4, 3), np.float32), 0, []
    for i in range(30):
        model = fm.Sequential([layers.GRU(5), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)])
        found = []
        raised += fresh.in_threads([lambda: found.append(model.predict(x, verbose=0).tobytes())] * 8)
        wrong += found != [model.predict(x, verbose=0).tobytes()] * 8 or len(model.weights) != 11
    print(json.dumps([wrong, raised]))
    """
    assert run(code) == [0, []]


@pytest.mark.parametrize("stem, gates, states, bias", [("gru", 3, 1, "(2, 3 * H)"), ("lstm", 4, 2, "(4 * H,)")])
def test_one_pack_of_weights_in_all_threads(stem, gates, states, bias):
    """As a served model: requests of many shapes and kinds, all with the same `packed`, for a second and a half."""
    code = f"""
    import json, sys, time, numpy as np, fresh
    from fastmask.ops.{stem} import {stem} as op, {stem}_pack as pack
    F, H = 3, 5
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    weights = normal(F, {gates} * H), normal(H, {gates} * H), normal(*{bias})
    requests = []
    for B, T in [(1, t) for t in range(1, 9)] + [(3, 1), (3, 7)]:
        requests += [
            (normal(B, T, F), options)
            for options in (
                {{}},
                {{"mask": rng.random((B, T)) < 0.6}},
                {{"initial_state": tuple(normal(B, H) for _ in range({states}))}},
                {{"go_backwards": True, "return_sequences": False}},
            )
        ]

    def answer(i, packed):
        x, options = requests[i]
        result = op(x, *weights, packed=packed, **options)
        return [np.asarray(result.outputs).tobytes(), *(s.tobytes() for s in result.states)]

    want = [answer(i, None) for i in range(len(requests))]
    packed = pack(*weights)
    wrong, answers = [], []
    until = time.monotonic() + 1.5
    seeds = iter(range(8))

    def client():
        order = np.random.default_rng(next(seeds)).permutation(len(requests)).tolist()
        while time.monotonic() < until:
            for i in order:
                if answer(i, packed) != want[i]:
                    wrong.append(i)
            answers.append(len(order))

    sys.setswitchinterval(1e-6)
    errors = fresh.in_threads([client] * 8)
    print(json.dumps([wrong, errors, sum(answers)]))
    """
    wrong, errors, answers = run(code)
    assert wrong == [] and errors == []
    assert answers > 1000, "hardly anything was asked"


def test_eight_threads_use_a_kernel_for_the_first_time(tmp_path):
    """From an empty cache: each kernel is compiled once, and each thread gets the right bits."""
    names = TINY[:3]
    code = f"""
    import collections, json, fresh
    from fastmask.kernels import _jit
    compiled, found = collections.Counter(), []
    emit = _jit.emit_kernel

    def counted(*what):
        compiled[".".join(what)] += 1
        return emit(*what)

    _jit.emit_kernel = counted
    errors = fresh.in_threads([lambda: found.append(fresh.tiny({names}))] * 8)
    print(json.dumps([compiled, found, errors]))
    """
    compiled, found, errors = run(code, tmp_path)
    right, _ = run(f"import fresh; fresh.report({names})")
    assert errors == []
    assert compiled == dict.fromkeys(names, 1)
    assert found == [right] * 8
    assert set(names) <= set(cache_files(tmp_path))


@pytest.mark.parametrize("launch", ["pool", "prange"])
def test_eight_threads_load_everything_at_once(launch):
    """From a filled cache: kernels are loaded, helpers and numba's layer are started while all eight ask for them."""
    code = """
    import json, sys, fresh
    sys.setswitchinterval(1e-5)
    fresh.always_parallel()
    found = []
    errors = fresh.in_threads([lambda: found.append(fresh.digests())] * 8)
    want = fresh.expected()
    print(json.dumps([len(found), [digests for digests in found if digests != want], errors]))
    """
    for _ in range(2):
        assert run(code, FASTMASK_LAUNCH=launch) == [8, [], []]
