"""The stages of the datastore."""

from chunkwise.corpus.stages import TOKENS_INPUT
from chunkwise.datastore.config import DatastoreConfig, DatastoreViewConfig
from chunkwise.graph.stage import Input, Stage, declare

DATASTORE_INPUT = Input(("datastore",))

DATASTORE = declare(
    Stage(
        name="datastore",
        version=2,  # 2: first_of_group
        config=DatastoreConfig,
        inputs={"tokens": TOKENS_INPUT},
        build="chunkwise.datastore.build:build",
    )
)

DATASTORE_VIEW = declare(
    Stage(
        name="datastore-view",
        version=2,  # 2: first_of_group
        config=DatastoreViewConfig,
        inputs={"tokens": TOKENS_INPUT, "statistics": DATASTORE_INPUT.or_none()},
        build="chunkwise.datastore.build:build_view",
        seeded=True,
        folder="datastore",  # to be opened like any other datastore
    )
)
