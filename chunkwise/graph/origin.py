"""From an artefact back to what it was built from: records hold the content digests of their
inputs.
"""

from __future__ import annotations

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ArtefactError
from chunkwise.core.store import Store
from chunkwise.graph.stage import stages


def origin(store: Store, artefact: Artefact, name: str) -> Artefact:
    """The stored artefact that was given as input `name` when this one was built.

    Raises:
        ArtefactError: it is not in the store.
    """
    # stages of one kind may take an input from different kinds: a datastore and a view of one
    kinds: set[str] = set()
    for stage in stages().values():
        if stage.kind == artefact.stage and name in stage.inputs:
            kinds.update(stage.inputs[name].kinds)
    # content, not a key: what an artefact was built from is known by what it held
    digest = artefact.record.inputs.get(name, "")
    source = store.of_digest(digest, kinds)
    if source is None:
        short_key = artefact.key[:12]
        raise ArtefactError(
            f"the {name} of the {artefact.stage} {short_key}, from which it was built, is "
            f"not in the store {store.root}",
            hint="name the store that it was built in: --store DIR, or CHUNKWISE_STORE",
        )
    return source
