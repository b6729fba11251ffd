"""Beside PyTorch: in the workers of a DataLoader, and in threads while PyTorch computes in others."""

import os
from pathlib import Path

import pytest

from fresh import PACKAGE, run

torch = pytest.importorskip("torch", reason="torch is not installed: not exercised: DataLoader workers")

METHODS = ["fork", "spawn", "forkserver"] if hasattr(os, "fork") else ["spawn"]


class Jobs(torch.utils.data.Dataset):
    """Item i is the digest of job i, computed where it is asked for."""

    names = ("lstm", "gru", "dense", "loss", "activations")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        import fresh

        return fresh.do_job(self.names[i])


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_data_loader(method):
    """After both libraries have used their threads in the parent, whose memory forked workers share."""
    code = f"""
    import json, torch, fresh
    from test_peers_processes import Jobs
    if __name__ == "__main__":
        want = fresh.expected()
        fresh.always_parallel()
        fresh.digests()
        torch.ones(500, 500) @ torch.ones(500, 500)
        wrong = []
        for _ in range(2):  # new workers each time
            loader = torch.utils.data.DataLoader(
                Jobs(), batch_size=1, num_workers=2, multiprocessing_context="{method}", timeout=90
            )
            found = dict(zip(Jobs.names, [item[0] for item in loader], strict=True))
            wrong += [name for name in Jobs.names if found[name] != want[name]]
        print(json.dumps([wrong, fresh.digests() == want]))
    """
    path = os.pathsep.join(map(str, [PACKAGE.parent, Path(__file__).parents[1], Path(__file__).parent]))
    assert run(code, PYTHONPATH=path) == [[], True]


def test_threads_beside_torch():
    code = "import fresh, soak_threads; fresh.crowd(1, [soak_threads.users_torch] * 2)"
    least, wrong, errors = run(code)
    assert errors == [] and wrong == {}
    assert least >= 4, "hardly anything was done"
