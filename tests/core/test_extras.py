import pytest

from chunkwise.core.errors import MachineError
from chunkwise.core.extras import extras_named


def test_a_missing_package_of_an_extra_names_its_install_line():
    with pytest.raises(MachineError, match="needs the package numba") as caught, extras_named():
        raise ModuleNotFoundError("No module named 'numba.core'", name="numba.core")
    assert caught.value.hint == 'pip install "chunkwise[data]"'


def test_any_other_missing_module_is_a_fault():
    with pytest.raises(ModuleNotFoundError), extras_named():
        raise ModuleNotFoundError("No module named 'chunkwise.nothing'", name="chunkwise.nothing")
