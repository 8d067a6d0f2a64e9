"""What worker processes start with."""

import os
from types import SimpleNamespace

from chunkwise.core.progress import Mirror
from chunkwise.core.store import Store
from chunkwise.graph import workers


def tell_variables(pipe, root, number):
    """In a worker's place."""
    pipe.send(dict(os.environ))


def a_workers_variables(folder, monkeypatch):
    monkeypatch.setattr(workers, "_work", tell_variables)
    with workers.Workers(1, Store(folder), threads=1) as pool:
        return pool._workers[0].pipe.recv()


def test_one_thread_and_an_allocator_without_holes_for_workers_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = a_workers_variables(tmp_path, monkeypatch)
    first, _, _ = workers.ALLOCATOR.partition(":")  # glibc cuts the text up where it lies
    assert found["GLIBC_TUNABLES"].startswith(first) and found["OMP_NUM_THREADS"] == "1"
    assert "GLIBC_TUNABLES" not in os.environ and os.environ["OMP_NUM_THREADS"] == "7"


def test_a_users_own_tunables_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")
    assert a_workers_variables(tmp_path, monkeypatch)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=3"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=3"


def report_and_die(pipe, root, number):
    """In a worker's place: half of the first job, then a killed process."""
    pipe.recv()
    pipe.send(("event", ("begin", 0, "training", 100, "steps")))
    for _ in range(2):
        pipe.send(("event", ("advance", 0, 25)))
    os._exit(9)


def test_the_pace_of_a_worker_that_died_is_not_the_next_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_work", report_and_die)
    mirror = Mirror()
    with workers.Workers(1, Store(tmp_path), threads=1) as pool:
        pool.give(SimpleNamespace(id="first", title="first"), {})
        paced, died = [], []
        while not died:
            died = [answer for answer in pool.answers(mirror, 1.0) if answer.died]
            paced.append(pool.paces(mirror))
        assert any(paces.get("first") for paces in paced)
        pool.give(SimpleNamespace(id="second", title="second"), {})
        assert pool.paces(mirror) == {}
