"""Public names under their former spelling."""

import pytest

from reward_model import evaluation
from reward_model.data import synthesis


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [(evaluation, "evaluate", "evaluate_judge"), (synthesis, "Estimate", "CostEstimate")],
)
def test_a_former_name_is_the_present_object_and_warns_the_caller(module, former, present):
    with pytest.warns(DeprecationWarning, match=f"{module.__name__}.{former} is now {present}") as warned:
        handed_out = getattr(module, former)
    assert handed_out is getattr(module, present)
    assert warned[0].filename == __file__
    assert former not in module.__all__ and present in module.__all__


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'reward_model\.evaluation' has no attribute 'evaluate_all'"):
        _ = evaluation.evaluate_all
