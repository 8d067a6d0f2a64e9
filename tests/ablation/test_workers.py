"""What worker processes start with."""

import os
import subprocess
import sys

from chunkwise.ablation.workers import ALLOCATOR, _environment, worker_environment


def started_with(name):
    with _environment(worker_environment()):
        command = [sys.executable, "-c", f"import os; print(os.environ.get({name!r}))"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_one_thread_and_an_allocator_without_holes_for_workers_alone(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert started_with("GLIBC_TUNABLES") == ALLOCATOR and started_with("OMP_NUM_THREADS") == "1"
    assert "GLIBC_TUNABLES" not in os.environ and os.environ["OMP_NUM_THREADS"] == "7"


def test_a_users_own_tunables_stay(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert started_with("GLIBC_TUNABLES") == "glibc.malloc.check=1"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=1"
