"""Two experts: which one a timestep belongs to, with which guidance, and that our sampling is the pipeline's own."""

import pytest
import torch

from cac_align.flow_grpo.loading import stochastic_scheduler
from cac_align.flow_grpo.maths.sampling import GroupSampler
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings, encoder_id
from cac_align.flow_grpo.sampler.experts import (
    ExpertVelocity,
    batched_pipeline,
    boundary_of,
    expert_at,
    split_by_expert,
    velocity_of,
)
from cac_align.flow_grpo.sampler.policy import Condition, noted_condition
from cac_align.flow_grpo.sampler.rollout import RolloutSampler, image_argument
from tests.cac_align.flow_grpo.runs import PROMPTS, settings
from tests.cac_align.flow_grpo.wan22 import a14b, pictures, ti2v_5b
from tests.campaigns import slow_but

PIPELINES = {
    "a14b": a14b,
    "a14b image": lambda: a14b(image=True),
    "5b": ti2v_5b,
    "5b image": lambda: ti2v_5b(image=True),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_boundary_belongs_to_the_high_noise_expert():
    assert expert_at(torch.tensor(875.0), 875.0) == "transformer"
    assert expert_at(torch.tensor([874.999, 0.0]), 875.0) == "transformer_2"
    with pytest.raises(
        ValueError, match=r"timesteps 100 to 900 mixes the experts on both sides of 875.*split the batch"
    ):
        expert_at(torch.tensor([900.0, 100.0]), 875.0)


def test_parts_of_a_batch_are_pure_and_complete():
    times = torch.tensor([100.0, 900.0, 875.0, 10.0])
    assert split_by_expert(times, 875.0) == [[1, 2], [0, 3]]
    assert split_by_expert(times[:1], 875.0) == [[0]]
    assert split_by_expert(times, None) == [[0, 1, 2, 3]]


def drawn(pipe, folder, image, **changes):
    """A rollout of two videos of our sampler, and what it drew with."""
    size = {"height": 32, "width": 32} if pipe.vae_scale_factor_spatial == 16 else {}
    config = settings(folder, kernel="ode", noise_level=None, objective="nft", **{**size, **changes})
    texts = TextEmbeddings(folder / "text", encoder_id(pipe), config.max_sequence_length)
    texts.fill(pipe, [PROMPTS[0], ""])
    images = pictures(PROMPTS[:1], size.get("height", 16)) if image else {}
    scheduler, _ = stochastic_scheduler(pipe.scheduler, config, "cpu")
    sampler = RolloutSampler(pipe, scheduler, texts, config, images)
    specs = GroupSampler(num_prompts=1, groups_per_step=1, num_generations=2).step_samples(0, 0)
    return sampler.draw_one(tuple(specs), PROMPTS[0], ()), config, images


@pytest.mark.parametrize(
    ("kind", "second"),
    slow_but(
        [("a14b", None), ("a14b", 2.0), ("a14b", 1.0), ("a14b image", 2.0), ("5b", None), ("5b image", None)],
        *[("a14b", 2.0), ("5b image", None)],
    ),
)
def test_our_ode_sampling_is_the_pipelines_own_bit_for_bit(tmp_path, kind, second):
    """Expert, guidance and condition of every step: none is ours to choose."""
    pipe, image = PIPELINES[kind](), "image" in kind
    rollout, config, images = drawn(pipe, tmp_path, image, batched_guidance=False, guidance_scale_2=second)
    seeds = [spec.seed for spec in rollout.specs]
    plain = pipe(
        **image_argument(images, PROMPTS[0]),
        prompt=[PROMPTS[0]] * 2,
        negative_prompt="",
        height=config.height,
        width=config.width,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=3.0,
        **({} if second is None else {"guidance_scale_2": second}),
        max_sequence_length=16,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).frames
    ours = torch.stack([torch.from_numpy(video) for video in rollout.frames])
    assert torch.equal(ours, torch.from_numpy((plain * 255).round().astype("uint8")))


@pytest.mark.parametrize(
    ("kind", "batched"),
    slow_but([(kind, batched) for kind in PIPELINES for batched in (True, False)], ("a14b", True), ("5b image", False)),
)
def test_the_policy_is_the_velocity_that_the_pipeline_uses(tmp_path, kind, batched):
    """Noted at the scheduler, where the pipeline hands it over, at every step of both experts."""
    pipe, image = PIPELINES[kind](), "image" in kind
    second = 1.0 if kind.startswith("a14b") else None  # at 1 the pipeline still computes both halves
    seen = []
    step = pipe.scheduler.step

    def noting(velocity, timestep, latents, **kwargs):
        seen.append((velocity, timestep, latents))
        return step(velocity, timestep, latents, **kwargs)

    pipe.scheduler.step = noting
    size = 32 if pipe.vae_scale_factor_spatial == 16 else 16
    config = settings(
        tmp_path, height=size, width=size, batched_guidance=batched, guidance_scale_2=second, noise_level=0.7
    )
    positive, negative = pipe.encode_prompt([PROMPTS[0]] * 2, "", True, max_sequence_length=16, device="cpu")
    with batched_pipeline(pipe, negative, batched), noted_condition([pipe.transformer], kind == "5b image") as noted:
        pipe(
            **({"image": pictures(PROMPTS[:1], size)[PROMPTS[0]]} if image else {}),
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            height=size,
            width=size,
            num_frames=5,
            num_inference_steps=4,
            guidance_scale=3.0,
            **({} if second is None else {"guidance_scale_2": second}),
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            output_type="latent",
        )
    policy = velocity_of(pipe, config)
    condition = Condition(positive, negative, noted[0] if image else None)
    with torch.no_grad():
        for velocity, timestep, latents in seen:
            assert torch.equal(policy(latents, timestep, condition), velocity)
    if kind.startswith("a14b"):
        assert isinstance(policy, ExpertVelocity) and boundary_of(pipe) == 875.0
        high = [bool(t >= 875) for _, t, _ in seen]
        assert high == [True, True, False, False], "both experts had steps"


def test_a_mixed_micro_batch_is_refused_and_an_idle_expert_gets_a_gradient_of_zero():
    pipe = a14b()
    policy = velocity_of(pipe, settings("unused", guidance_scale=1.0))
    x, text = torch.randn(2, 16, 2, 2, 2), torch.randn(2, 16, 32)
    with pytest.raises(ValueError, match="mixes the experts"):
        policy(x, torch.tensor([900.0, 800.0]), Condition(text))
    alone = policy(x, torch.tensor([900.0, 990.0]), Condition(text))
    policy.joined = True
    joined = policy(x, torch.tensor([900.0, 990.0]), Condition(text))
    assert torch.equal(alone, joined)
    weight = pipe.transformer_2.blocks[0].attn1.to_q.weight
    (slope,) = torch.autograd.grad(joined.sum(), weight)
    assert slope.shape == weight.shape and not slope.any()
