"""The check behind the names: a wrong number of axes or a wrong order of them fails while tests run."""

import numpy as np
import pytest
import torch

from tests import shapes


def checked(source: str, **given):
    """Run a function `f` of some source as the import hook would compile it."""
    import ast

    tree = ast.fix_missing_locations(shapes._Checked().visit(ast.parse(source)))
    scope = {"__check_shapes__": shapes._check_unless_raised, "np": np, "torch": torch}
    exec(compile(tree, "<source>", "exec"), scope)
    return scope["f"](**given)


SWAPPED = "def f(states_BTD):\n    moved_TBD = states_BTD.transpose(0, 1)\n    return moved_TBD"


def test_right_names_pass():
    assert checked(SWAPPED, states_BTD=torch.zeros(2, 3, 4)).shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (SWAPPED.replace("moved_TBD =", "moved_BTD =").replace("return moved_TBD", "return moved_BTD"), "B is 2 in"),
        (SWAPPED.replace(".transpose(0, 1)", ".flatten(0, 1)"), "moved_TBD has the shape"),
        ("def f(states_BTD):\n    first_B1D = states_BTD\n    return first_B1D", "first_B1D has the shape"),
        ("def f(states_BTD):\n    weights_T = np.zeros(5)\n    return weights_T", "T is 3 in states_BTD and 5 in"),
    ],
)
def test_wrong_ones_fail(source, complaint):
    with pytest.raises(AssertionError, match=complaint):
        checked(source, states_BTD=torch.zeros(2, 3, 4))


def test_an_error_of_the_function_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        checked("def f(states_BTD):\n    wrong_B = states_BTD\n    return 1 / 0", states_BTD=torch.zeros(2, 3, 4))


def test_the_package_is_checked_while_tests_run():
    from chunkwise.model.chunked_attention import ChunkedCrossAttention
    from chunkwise.neighbours.controls import random_neighbours

    for function in (ChunkedCrossAttention.forward, random_neighbours):
        assert "__check_shapes__" in function.__code__.co_names
