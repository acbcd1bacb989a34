"""Unmodified diffusers pipelines with the scheduler put in: sampling, exact replay, refusals. Tiny real models."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from PIL import Image

from cac_align.flow_grpo import check_pipeline, sde_sampling
from cac_align.flow_grpo.maths.kernels import log_prob, log_ratio

PROMPTS = ["a red ball moves right", "a blue square bounces"]
GUIDANCE = 3.0
CALL = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": GUIDANCE}
CALL["max_sequence_length"] = 16  # of words no prompt here has more
FLOW = {"kernel": "flow", "noise_level": 0.7}


pytestmark = pytest.mark.usefixtures("one_thread")


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipe, seeds=(1, 2), prompts=PROMPTS, windows=None, options=FLOW, **call):
    with sde_sampling(pipe, **options) as scheduler:
        with scheduler.rollout(seeds, windows) as trajectory:
            call = {**CALL, "generator": generators(seeds), "output_type": "latent", **call}
            video = pipe(prompts, **call).frames
        return video, trajectory, scheduler


def replay(pipe, scheduler, record, prompts=PROMPTS, dtype=torch.float32):
    """Training's half: the transformer again on the recorded latents, guidance as the pipeline has it."""
    positive, negative = pipe.encode_prompt(prompts, None, True, max_sequence_length=16, device="cpu")
    timestep = record.timestep.expand(len(record.latents))

    def forward(text):
        return pipe.transformer(
            hidden_states=record.latents.to(dtype),
            timestep=timestep,
            encoder_hidden_states=text.to(dtype),
            return_dict=False,
        )[0]

    cond, uncond = forward(positive), forward(negative)
    return scheduler.transition_at(record.step, record.latents, uncond + GUIDANCE * (cond - uncond))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ratio_is_exactly_one_at_unchanged_weights(wan_pipe, dtype):
    pipe = copy.copy(wan_pipe)
    pipe.transformer = copy.deepcopy(wan_pipe.transformer).to(dtype)
    _, trajectory, scheduler = run(pipe, windows=(0, 2))
    assert [r.step for r in trajectory] == [0, 2]
    with torch.no_grad():
        for record in trajectory:
            step = replay(pipe, scheduler, record, dtype=dtype)
            assert torch.equal(log_prob(record.next_latents, step.mean, step.std), record.log_prob)
            assert log_ratio(record.next_latents, step.mean, record.mean, step.std).tolist() == [0, 0]
            assert record.latents.dtype == torch.float32


def test_replay_of_a_batch_equals_replay_of_its_items(wan_pipe):
    _, trajectory, scheduler = run(wan_pipe)
    with torch.no_grad():
        for row, prompt in enumerate(PROMPTS):
            for record in trajectory.of(row):
                step = replay(wan_pipe, scheduler, record, [prompt])
                again = log_prob(record.next_latents, step.mean, step.std)
                assert again.item() == pytest.approx(record.log_prob.item(), abs=1e-5)


def test_gradient_reaches_the_transformer(wan_pipe):
    _, trajectory, scheduler = run(wan_pipe, windows=(1,))
    record = trajectory.records[0]
    step = replay(wan_pipe, scheduler, record)
    weight = wan_pipe.transformer.blocks[0].attn1.to_q.weight
    (slope,) = torch.autograd.grad(log_prob(record.next_latents, step.mean, step.std).sum(), weight)
    assert slope.abs().sum() > 0 and not record.next_latents.requires_grad


def test_transformer_sees_the_recorded_timestep_and_nothing_of_it_is_rounded(wan_pipe):
    seen = []
    hook = wan_pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    try:
        for integer in (False, True):
            seen.clear()
            _, trajectory, scheduler = run(wan_pipe, options={**FLOW, "integer_timesteps": integer})
            for record in trajectory:
                # Two calls a step: cond and uncond.
                for passed in seen[2 * record.step : 2 * record.step + 2]:
                    assert passed.dtype == (torch.int64 if integer else torch.float32)
                    assert torch.equal(passed, record.timestep.expand(2))
            if not integer:
                assert torch.equal(torch.stack(seen[::2])[:, 0], scheduler.sigmas[:-1] * 1000)
    finally:
        hook.remove()


def test_kernel_ode_is_the_pipeline_as_it_was(wan_pipe):
    plain = wan_pipe(PROMPTS, generator=generators((1, 2)), output_type="latent", **CALL).frames
    video, trajectory, _ = run(wan_pipe, options={"kernel": "ode"})
    assert torch.equal(video, plain) and not trajectory.records


def test_base_solver_is_the_pipeline_with_unipc(wan_pipe):
    pipe = copy.copy(wan_pipe)
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    plain = pipe(PROMPTS, generator=generators((1, 2)), output_type="latent", **CALL).frames
    options = {"kernel": "wan_linear", "ode_solver": "base", "integer_timesteps": True}
    video, _, _ = run(pipe, windows=(), options=options)
    assert torch.allclose(video, plain, atol=1e-6)


@pytest.mark.slow
def test_a_video_depends_on_its_seed_and_not_on_its_batch(wan_pipe):
    together, _, _ = run(wan_pipe, windows=(0, 1))
    alone, _, _ = run(wan_pipe, seeds=(2,), prompts=PROMPTS[1:], windows=(0, 1))
    assert torch.allclose(alone[0], together[1], atol=1e-5)
    other, _, _ = run(wan_pipe, seeds=(1, 3), windows=(0, 1))
    assert not torch.allclose(other[1], together[1], atol=1e-2)


def test_image_to_video(wan_i2v_pipe):
    image = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    with sde_sampling(wan_i2v_pipe, kernel="cps", noise_level=0.7) as scheduler, scheduler.rollout([1]) as trajectory:
        frames = wan_i2v_pipe(image=image, prompt=PROMPTS[0], **CALL).frames
    assert frames.shape == (1, 5, 16, 16, 3) and np.isfinite(frames).all()
    assert [r.step for r in trajectory] == [0, 1, 2], "cps has no noise in the last step"


def test_another_family(ltx_pipe):
    """LTX passes its own sigmas and mu, packs latents to (B, S, C) and sets no begin index."""
    call = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 3, "guidance_scale": GUIDANCE}
    plain = ltx_pipe(PROMPTS[0], generator=generators([1])[0], output_type="latent", **call).frames
    with sde_sampling(ltx_pipe, kernel="ode"):
        same = ltx_pipe(PROMPTS[0], generator=generators([1])[0], output_type="latent", **call).frames
    assert torch.equal(plain, same)
    with sde_sampling(ltx_pipe, **FLOW) as scheduler, scheduler.rollout([1]) as trajectory:
        noisy = ltx_pipe(PROMPTS[0], generator=generators([1])[0], output_type="latent", **call).frames
    assert [r.step for r in trajectory] == [0, 1] and trajectory.records[0].latents.shape == noisy.shape
    assert not torch.equal(noisy, plain) and noisy.isfinite().all()


def test_the_old_scheduler_comes_back_even_after_an_error(wan_pipe):
    before = wan_pipe.scheduler
    with pytest.raises(ValueError, match="the rollout has 3 seeds"):
        run(wan_pipe, seeds=(1, 2, 3), windows=(0,), generator=None)
    assert wan_pipe.scheduler is before


def test_pipelines_that_are_refused(wan_pipe):
    check_pipeline(wan_pipe)
    half = type(wan_pipe)(**{**wan_pipe.components, "boundary_ratio": 0.875})
    with (
        pytest.raises(ValueError, match=r"boundary_ratio=0.875 and no transformer_2 .* load the pipeline whole"),
        sde_sampling(half, **FLOW),
    ):
        pass
    idle = type(wan_pipe)(**{**wan_pipe.components, "transformer_2": wan_pipe.transformer})
    with pytest.raises(ValueError, match="transformer_2 and no boundary_ratio, so that it is never called"):
        check_pipeline(idle)
    image = copy.copy(wan_pipe)
    image.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="DDIMScheduler is not a flow-matching scheduler"):
        check_pipeline(image)
    with pytest.raises(ValueError, match="object lacks a transformer or a scheduler"):
        check_pipeline(object())
