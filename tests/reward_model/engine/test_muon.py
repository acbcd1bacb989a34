"""Muon and AdamW in one optimizer: each part is what it says it is, and its state survives a stop."""

import copy

import pytest
import torch
from torch import nn

from reward_model.engine.muon import MuonAdamW, divide_parameters, orthogonalize


def test_the_update_is_nearly_orthogonal_and_keeps_the_directions():
    matrix = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    for given, expected in ((matrix, u @ vt), (matrix.T, (u @ vt).T)):
        found = orthogonalize(given)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6 and values.max() < 1.25
        # Same singular directions: only the lengths along them differ.
        core = u.T @ (found if given is matrix else found.T) @ vt.T
        assert (core - torch.diag(core.diag())).abs().max() < 1e-10
        assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.95


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()


def optimizer_of(model, **options):
    groups = divide_parameters(model.named_parameters(), lr=0.02, adam_lr=1e-3, adam_names=("2.weight",))
    return MuonAdamW(groups, betas=(0.9, 0.99), weight_decay=0.1, **options)


def backward(model, step):
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    model.zero_grad()
    model(x).square().mean().backward()


def test_what_is_no_matrix_moves_exactly_as_with_adamw():
    ours, stock = net(), net()
    optimizer = optimizer_of(ours)
    rest = [p for n, p in stock.named_parameters() if n != "0.weight"]
    reference = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    backward(ours, 0)
    backward(stock, 0)
    optimizer.step()
    reference.step()
    moved = dict(ours.named_parameters())
    for name, param in stock.named_parameters():
        assert torch.equal(moved[name], param) == (name != "0.weight"), name


def test_a_matrix_takes_a_step_of_the_given_length_and_decays():
    model = net()
    optimizer = optimizer_of(model, momentum=0.0)
    before = model[0].weight.detach().clone()
    backward(model, 0)
    update = orthogonalize(model[0].weight.grad)
    optimizer.step()
    expected = before * (1 - 0.02 * 0.1) - 0.02 * (7 / 5) ** 0.5 * update
    assert torch.allclose(model[0].weight, expected, atol=1e-15)


def test_a_restored_optimizer_continues_bit_for_bit():
    model = net()
    optimizer = optimizer_of(model)
    for step in range(3):
        backward(model, step)
        optimizer.step()
    twin = copy.deepcopy(model)
    restored = optimizer_of(twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for m, o in ((model, optimizer), (twin, restored)):
            backward(m, step)
            o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_groups_survive_a_failing_step_and_frozen_parameters_are_left_out():
    model = net()
    model[2].bias.requires_grad_(False)
    optimizer = optimizer_of(model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 3
    backward(model, 0)
    optimizer.param_groups[1]["betas"] = "broken"
    groups = list(optimizer.param_groups)
    with pytest.raises((TypeError, ValueError)):
        optimizer.step()
    assert optimizer.param_groups == groups
