"""One small world for all tests of this folder."""

import pytest

from tests.evaluation.building import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))
