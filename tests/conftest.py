"""What all tests share: no network, no store outside the test, and marks that skip where something is not there."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import shapes

shapes.install()  # before any module of the package is imported

# A shell that starts a job in the background has it ignore Ctrl-C, and children inherit that; our tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# No test depends on how busy the machine is.
settings.register_profile("chunkwise", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "mutants", settings.get_profile("chunkwise"), max_examples=25, derandomize=True, database=None
)
settings.load_profile("chunkwise")

_MEGATRON = Path(__file__).parent.parent / ".venv-megatron" / "bin" / "python"
PEER_PYTHON = Path(os.environ.get("CHUNKWISE_MEGATRON_PYTHON", _MEGATRON))
"""Python of an environment with megatron-core, for tests marked `peer`."""


@pytest.fixture(autouse=True)
def _store_of_the_test(tmp_path_factory, monkeypatch):
    """A store that a test did not name is its own, never the one of whoever runs the tests."""
    monkeypatch.setenv("CHUNKWISE_STORE", str(tmp_path_factory.getbasetemp() / "store"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real text, for tests marked `data`."""
    return Path(os.environ["CHUNKWISE_DATA"])


def pytest_collection_modifyitems(items):
    no_data = not os.environ.get("CHUNKWISE_DATA")
    for item in items:
        if no_data and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="CHUNKWISE_DATA names no folder of real text"))
        if item.get_closest_marker("peer") and not PEER_PYTHON.exists():
            item.add_marker(pytest.mark.skip(reason="no megatron-core; `make test-peers` installs and runs it"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
