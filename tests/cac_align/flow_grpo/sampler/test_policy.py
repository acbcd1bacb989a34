"""Guidance recomputed for training, and the pipeline's two calls made one."""

import pytest
import torch

from cac_align.flow_grpo.sampler.policy import Condition, GuidedVelocity, batched_calls
from tests.cac_align.flow_grpo.runs import PROMPTS, tiny_pipe

CALL = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


@pytest.fixture(scope="module")
def texts(pipe):
    return pipe.encode_prompt(PROMPTS[:2], None, True, max_sequence_length=16, device="cpu")


def sample(pipe, texts, guidance, active):
    positive, negative = texts
    calls = []
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    with batched_calls(pipe.transformer, negative if guidance > 1 else None, active):
        latents = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(k) for k in (1, 2)],
            **CALL,
        ).frames
    hook.remove()
    return latents, len(calls)


def test_one_call_for_both_halves_gives_the_same_video(pipe, texts):
    seen = []
    block = pipe.transformer.blocks[0]
    hook = block.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    two, _ = sample(pipe, texts, 3.0, False)
    assert seen == [2] * 6
    seen.clear()
    one, _ = sample(pipe, texts, 3.0, True)
    hook.remove()
    assert seen == [4] * 3, "both halves in one batch, three steps"
    assert torch.allclose(one, two, atol=1e-5)
    assert "forward" not in vars(pipe.transformer)


def test_without_guidance_nothing_changes(pipe, texts):
    plain, calls = sample(pipe, texts, 1.0, False)
    again, also = sample(pipe, texts, 1.0, True)
    assert torch.equal(plain, again) and calls == also == 3


def test_the_pipeline_gets_its_forward_back_after_an_error(pipe, texts):
    with pytest.raises(RuntimeError), batched_calls(pipe.transformer, texts[1]):
        raise RuntimeError
    assert "forward" not in vars(pipe.transformer)


@pytest.mark.parametrize("batched", [True, False])
def test_velocity_is_what_the_scheduler_was_given(pipe, texts, batched):
    """To the bit: ratios of exactly 1 rest on it."""
    seen = []
    step = pipe.scheduler.step

    def spy(velocity, timestep, latents, **kwargs):
        seen.append((velocity, timestep, latents))
        return step(velocity, timestep, latents, **kwargs)

    pipe.scheduler.step = spy
    try:
        sample(pipe, texts, 3.0, batched)
    finally:
        del pipe.scheduler.step
    policy = GuidedVelocity(pipe.transformer, 3.0, batched)
    with torch.no_grad():
        for velocity, timestep, latents in seen:
            assert torch.equal(policy(latents, timestep, Condition(*texts)), velocity)


def test_no_negative_prompt_is_no_guidance(pipe, texts):
    x = torch.randn(2, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = GuidedVelocity(pipe.transformer, 1.0)(x, torch.tensor(500.0), Condition(*texts))
        assert torch.equal(
            plain, GuidedVelocity(pipe.transformer, 3.0)(x, torch.tensor([500.0, 500.0]), Condition(texts[0]))
        )
