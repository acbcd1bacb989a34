"""Flow-matching DPO against plain floats, an independent float64 reference, and the identities it must keep."""

import math

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.learner.data_term import flow_matching_loss
from cac_align.flow_grpo.maths.preference import contrast_weights, flow_dpo_loss
from cac_align.latent_cells import LatentGrid
from reward_model.anomalies import Anomaly, AnomalyType, Box, FrameRange

SHAPE = (3, 4, 3, 2, 2)
GRID = LatentGrid(num_frames=9, height=16, width=16)  # 3 x 2 x 2 cells


def draws(seed=0, dtype=torch.float64):
    """Velocities, references and targets of the chosen and of the rejected video."""
    made = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return (made[0], made[1]), (made[2], made[3]), (made[4], made[5])


def reference_loss(velocities, references, targets, beta, weights=None):
    """The published formula in numpy, element by element."""
    found = []
    for row in range(SHAPE[0]):
        errors = []
        for prediction in (velocities, references):
            for side in (0, 1):
                square = (prediction[side][row].numpy() - targets[side][row].numpy()) ** 2
                errors.append((square if weights is None else square * weights[row].numpy()).sum() / square.size)
        model_w, model_l, before_w, before_l = errors
        inside = -0.5 * beta * ((model_w - model_l) - (before_w - before_l))
        found.append(math.log1p(math.exp(-inside)) if inside > 0 else -inside + math.log1p(math.exp(inside)))
    return found


def test_golden_numbers():
    zero, one, two = (torch.full((1, 4), float(k), dtype=torch.float64) for k in (0, 1, 2))
    # errors: chosen 1 against 4 of the reference, rejected 4 against 1; margin = 0.5 / 2 * (3 + 3) = 1.5
    found = flow_dpo_loss((one, two), (two, one), (zero, zero), beta=0.5)
    assert (found.chosen_gain.item(), found.rejected_gain.item(), found.margin.item()) == (3, -3, 1.5)
    assert found.loss.item() == pytest.approx(0.20141327798275246, abs=1e-15)
    swapped = flow_dpo_loss((two, one), (one, two), (zero, zero), beta=0.5)
    assert swapped.loss.item() == pytest.approx(1.7014132779827524, abs=1e-15)
    unchanged = flow_dpo_loss((one, two), (one, two), (zero, zero), beta=5000)
    assert unchanged.loss.item() == pytest.approx(math.log(2), abs=1e-15), "a model that is its reference knows nothing"


@pytest.mark.parametrize("beta", [0.3, 7.0, 2000.0])
@pytest.mark.parametrize("localised", [False, True])
def test_the_loss_is_that_of_an_independent_reference(beta, localised):
    velocities, references, targets = draws(1)
    weights = None
    if localised:
        weights = torch.rand(3, 1, *SHAPE[2:], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        weights = weights / weights.flatten(1).mean(1).reshape(3, 1, 1, 1, 1)
    found = flow_dpo_loss(velocities, references, targets, beta=beta, weights=weights)
    assert found.loss.tolist() == pytest.approx(reference_loss(velocities, references, targets, beta, weights))
    narrow = flow_dpo_loss(*draws(1, torch.bfloat16), beta=beta)
    assert narrow.loss.dtype == torch.float32 and bool(narrow.loss.isfinite().all())


def test_the_gradient_is_that_of_the_formula_and_reaches_the_trained_model_only():
    velocities, references, targets = draws(3)
    for tensor in (*velocities, *references, *targets):
        tensor.requires_grad_()
    found = flow_dpo_loss(velocities, references, targets, beta=4.0)
    found.loss.sum().backward()
    assert all(tensor.grad is None for tensor in (*references, *targets))
    pull = torch.sigmoid(-found.margin).reshape(-1, 1, 1, 1, 1) * 4.0
    size = math.prod(SHAPE[1:])
    for side, sign in ((0, 1), (1, -1)):
        wanted = sign * pull * (velocities[side] - targets[side]).detach() / size
        assert torch.allclose(velocities[side].grad, wanted, atol=1e-12)


def test_a_step_on_the_velocities_tells_the_pair_right():
    _, references, targets = draws(4)
    moved = [v.clone().requires_grad_() for v in references]
    flow_dpo_loss(tuple(moved), references, targets, beta=50.0).loss.sum().backward()
    after = flow_dpo_loss(tuple(m.detach() - 0.1 * m.grad for m in moved), references, targets, beta=50.0)
    assert bool((after.margin > 0).all()) and bool((after.loss < math.log(2)).all())
    assert bool((after.chosen_gain > 0).all()) and bool((after.rejected_gain < 0).all())


def test_the_gain_of_the_chosen_video_is_that_of_the_flow_matching_loss():
    """Fine-tuning on the winners and DPO measure the same error."""
    velocities, references, _ = draws(5)
    clean, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = flow_dpo_loss(velocities, references, (noise - clean, noise - clean), beta=1.0)
    gain = flow_matching_loss(references[0], clean, noise) - flow_matching_loss(velocities[0], clean, noise)
    assert torch.allclose(found.chosen_gain, gain)


def test_beta_must_be_above_zero():
    with pytest.raises(ValueError, match="beta=0 must be above 0"):
        flow_dpo_loss(*draws(), beta=0)


# --- localised --------------------------------------------------------------------------------------------------------


def anomaly(first, last, box=None):
    boxes = {} if box is None else {first: (Box(*box),)}
    return Anomaly(AnomalyType.OBJECT, FrameRange(first, last), boxes)


def test_cells_weigh_where_the_findings_differ():
    left = anomaly(5, 8, (0, 0, 500, 1000))
    found = contrast_weights([], [left], GRID)
    wanted = np.zeros((3, 2, 2))
    wanted[2, :, 0] = 6  # two of twelve cells, mean 1
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), wanted)
    assert torch.equal(contrast_weights([left], [], GRID), found), "whichever of the two has it"
    whole = contrast_weights([left], [anomaly(5, 8)], GRID)
    assert np.array_equal(whole.numpy()[2], [[0, 6], [0, 6]]) and not whole[:2].any(), "what both have cancels"
    soft = contrast_weights([], [left], GRID, floor=0.5)
    assert soft.mean().item() == pytest.approx(1) and soft[2, 0, 0] == 2 * soft[0, 0, 0]


def test_pairs_without_a_difference_are_weighted_alike():
    same = anomaly(0, 8, (0, 0, 500, 500))
    for chosen, rejected in (([], []), ([same], [same])):
        assert torch.equal(contrast_weights(chosen, rejected, GRID), torch.ones(GRID.shape))
    assert torch.equal(contrast_weights([], [anomaly(0, 8)], GRID), torch.ones(GRID.shape)), "everywhere is nowhere"
    with pytest.raises(ValueError, match="floor=2"):
        contrast_weights([], [same], GRID, floor=2)


def test_localised_loss_sees_its_cells_only():
    velocities, references, targets = draws(7)
    weights = contrast_weights([], [anomaly(5, 8, (0, 0, 500, 1000))], GRID)[None, None]
    found = flow_dpo_loss(velocities, references, targets, beta=3.0, weights=weights)
    elsewhere = velocities[0].clone()
    elsewhere[:, :, :2] += 9
    same = flow_dpo_loss((elsewhere, velocities[1]), references, targets, beta=3.0, weights=weights)
    assert torch.equal(found.loss, same.loss)
    cells = (slice(None), slice(None), 2, slice(None), 0)
    alone = flow_dpo_loss(*(tuple(t[cells] for t in pair) for pair in (velocities, references, targets)), beta=3.0)
    assert torch.allclose(found.loss, alone.loss), "mean-1 weights: the loss of these cells by themselves"
