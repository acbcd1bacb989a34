"""Log-probabilities from hidden states in chunks, against plain torch."""

import pytest
import torch

from reward_model.training.grpo.head_scores import token_scores


def plain(head, states, tokens, temperature):
    logs = torch.log_softmax(head(states) / temperature, dim=-1)
    return logs.gather(1, tokens[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


def gradients(values, weights, tensors):
    return torch.autograd.grad((values * weights).sum(), tensors)


@pytest.fixture
def case():
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 17, bias=False).double()
    return head, torch.randn(10, 6, dtype=torch.float64, requires_grad=True), torch.randint(17, (10,))


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_entropies_and_gradients_are_those_of_plain_torch(case, chunk, temperature):
    head, states, tokens = case
    found, entropy = token_scores(head, states, tokens, temperature=temperature, chunk=chunk)
    values, expected = plain(head, states, tokens, temperature)
    assert torch.allclose(found, values, atol=1e-12) and torch.allclose(entropy, expected, atol=1e-12)
    weights = torch.randn(10, dtype=torch.float64)
    both = gradients(found, weights, [states, head.weight]), gradients(values, weights, [states, head.weight])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*both, strict=True))
    assert not entropy.requires_grad


def test_a_frozen_head_still_passes_gradients_to_the_states(case):
    head, states, tokens = case
    head.requires_grad_(False)
    (grad,) = gradients(token_scores(head, states, tokens, chunk=4)[0], torch.ones(10), [states])
    assert torch.allclose(grad, gradients(plain(head, states, tokens, 1.0)[0], torch.ones(10), [states])[0], atol=1e-12)


def test_autocast_changes_the_products_and_not_the_sums(case):
    """As autograd under autocast: products in bf16 in both directions, log-probabilities in fp32."""
    head, states, tokens = case[0].float(), case[1].detach().float().requires_grad_(), case[2]
    with torch.autocast("cpu", torch.bfloat16):
        found, entropy = token_scores(head, states, tokens, chunk=4)
        logs = torch.log_softmax(head(states).float(), dim=-1)
    values = logs.gather(1, tokens[:, None])[:, 0]
    assert found.dtype == entropy.dtype == torch.float32 and torch.equal(found, values)
    both = (gradients(v, torch.ones(10), [states, head.weight]) for v in (found, values))
    for a, b in zip(*both, strict=True):
        assert a.dtype == torch.float32 and torch.allclose(a, b, atol=2e-2)


def test_the_head_is_called_once_with_its_hooks_and_left_as_it_was(case):
    head, states, tokens = case
    seen = []
    head.register_forward_hook(lambda module, given, result: seen.append(result[0].shape))
    token_scores(head, states, tokens, chunk=3)
    assert seen == [(10,)] and "forward" not in vars(head)
    assert head(states).shape == (10, 17)
