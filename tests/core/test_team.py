"""Processes that build one artefact together, here as threads that agree through a barrier."""

import threading

import pytest

from chunkwise.core.errors import ArtefactError, ChunkwiseError, MismatchError
from chunkwise.core.progress import note, track
from chunkwise.core.store import Store
from chunkwise.core.team import rank, world_size

SECONDS = 60  # until a test that hangs is called one


class Threads:
    """What the members of a team share."""

    def __init__(self, size):
        self.box, self.barrier = None, threading.Barrier(size)

    def member(self, number):
        return Member(number, self)


class Member:
    def __init__(self, number, threads):
        self.rank, self.threads = number, threads

    def share(self, number):
        if self.rank == 0:
            self.threads.box = number
        self.threads.barrier.wait(SECONDS)
        shared = self.threads.box
        self.threads.barrier.wait(SECONDS)
        return shared


def together(task, size=2):
    """Run task(member) for each member; what each returned or raised."""
    threads, results = Threads(size), [None] * size

    def work(number):
        try:
            results[number] = task(threads.member(number))
        except BaseException as error:
            results[number] = error

    running = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(size)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in running)
    return results


def leftovers(store):
    return [path for name in ("temporary", "scratch") for path in (store.root / name).glob("*")]


def test_all_take_part_and_the_first_commits(tmp_path):
    store, part, out = Store(tmp_path / "store"), [], tmp_path / "out"

    def make(member):
        def build(folder, scratch):
            part.append((member.rank, scratch))
            if member.rank == 0:
                (folder / "text.txt").write_text("made by all")
            return {"n": 1} if member.rank == 0 else {}

        return store.make("model", 1, {}, {}, build, team=member, out=out)

    made = together(make, size=3)
    assert made[0] == made[1] == made[2] and made[0].counts == {"n": 1}
    assert not any(artefact.reused for artefact in made)
    assert sorted(number for number, _ in part) == [0, 1, 2] and len({scratch for _, scratch in part}) == 1
    assert (out / "text.txt").read_text() == "made by all"
    assert leftovers(store) == []
    again = together(make, size=3)
    assert again == made and all(artefact.reused for artefact in again) and len(part) == 3


def test_while_the_first_waits_for_a_lock_the_others_stay_in_touch(tmp_path):
    """Somebody else builds the same: nobody of the team does, and no collective is left open for long."""
    store, begun, waited = Store(tmp_path), threading.Event(), threading.Event()

    def slowly(folder, scratch):
        begun.set()
        assert waited.wait(SECONDS)
        (folder / "text.txt").write_text("made by somebody else")
        return {}

    other = threading.Thread(target=lambda: store.make("model", 1, {}, {}, slowly), daemon=True)
    other.start()
    assert begun.wait(SECONDS)
    words = []

    class Listening(Member):
        def share(self, number):
            shared = super().share(number)
            if self.rank:
                words.append(shared)
                if len(words) > 3:  # the key, and more than one "wait"
                    waited.set()
            return shared

    def make(member):
        return store.make("model", 1, {}, {}, never, team=Listening(member.rank, member.threads))

    made = together(make)
    other.join(SECONDS)
    assert made[0] == made[1] and made[0].file("text.txt").read_text() == "made by somebody else"
    assert len(words) > 3


def never(folder, scratch):
    raise AssertionError("must not be built")


def test_when_the_first_cannot_begin_the_others_hear_of_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "other.txt").write_text("")
    first, second = together(
        lambda member: Store(tmp_path / "store").make("model", 1, {}, {}, never, team=member, out=out)
    )
    assert isinstance(first, ArtefactError) and "holds other files" in str(first)
    assert isinstance(second, ChunkwiseError) and "process 0 did not finish the model" in str(second)


def test_when_the_first_fails_in_the_middle_nothing_is_left(tmp_path):
    store = Store(tmp_path)

    def make(member):
        def build(folder, scratch):
            if member.rank == 0:
                (folder / "half.txt").write_text("half")
                raise ChunkwiseError("broken")
            return {}

        return store.make("model", 1, {}, {}, build, team=member)

    first, second = together(make)
    assert str(first) == "broken" and "process 0 did not finish" in str(second)
    assert store.list() == [] and leftovers(store) == []


def test_processes_that_want_different_things_do_not_begin(tmp_path):
    def make(member):
        member.threads.barrier.wait(SECONDS)
        params = {"dtype": ("float32", "bfloat16")[member.rank]}
        return Store(tmp_path).make("model", 1, params, {}, lambda folder, scratch: {}, team=OneShare(member))

    _, second = together(make)
    assert isinstance(second, MismatchError) and "another model" in str(second)


class OneShare:
    """A member whose launcher ends all once one has failed: here, after the first agreement."""

    def __init__(self, member):
        self.rank, self.member, self.shared = member.rank, member, False

    def share(self, number):
        if self.shared:
            raise SystemExit
        self.shared = True
        return self.member.share(number)


def test_the_launchers_numbers(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size()) == (3, 4)


@pytest.mark.parametrize("number", ["0", "1"])
def test_the_first_process_speaks_for_all(capsys, monkeypatch, number):
    monkeypatch.setenv("RANK", number)
    note("a note")
    with track("work", total=2) as advance:
        advance(2)
    assert ("a note" in capsys.readouterr().err) == (number == "0")
