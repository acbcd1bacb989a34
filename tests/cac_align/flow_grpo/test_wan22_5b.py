"""Wan 2.2 TI2V-5B: timesteps per token, cells of 16 pixels, a first frame that is given and not trained. And best-of-n
with either layout."""

import logging

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.learner.lora_files import load_lora
from cac_align.flow_grpo.loading import load_pipeline
from cac_align.rewards.base import Evaluation
from cac_align.selection.best import best_of_n
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Verdict
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, PROMPTS, equal, settings, weights
from tests.cac_align.flow_grpo.test_wan22 import gradients
from tests.cac_align.flow_grpo.toy_rewards import brightness
from tests.cac_align.flow_grpo.wan22 import a14b, build, pictures, ti2v_5b
from tests.campaigns import slow_but

SIZE = {"height": 32, "width": 32}
WINDOW = {"window_mode": "all", **SIZE}


pytestmark = pytest.mark.usefixtures("one_thread")


def images_for(prompts):
    return pictures(prompts, 32)


@pytest.mark.parametrize("image", slow_but([False, True], True))
def test_the_adapter_learns_and_the_ratio_is_exactly_one(tmp_path, image):
    pipe, images = ti2v_5b(image=image), images_for(PROMPTS) if image else None
    trainer = build(tmp_path, pipe, images=images, learning_rate=1e-2, beta=0.1, **WINDOW)
    before = weights(trainer)
    trainer.run_step()
    assert not any(equal({k: v}, {k: before[k]}) for k, v in weights(trainer).items())
    assert trainer.self_check() == {"floor": 0.0, "limit": 1e-3, "log_prob": 0.0}
    seen = []
    hook = trainer.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    experience, numbers = trainer.run_step()
    hook.remove()
    assert numbers["ratio/log_ratio_abs_max"] == 0.0 and numbers["policy/kl"] > 0
    # Two latent frames of a token each: as the pipeline calls it, and in training with both halves of guidance at once
    assert {tuple(times.shape) for times in seen} == {(4, 2), (8, 2)}
    assert all(bool((times[:, 0] == 0).all()) is image and bool((times[:, 1] > 0).all()) for times in seen)
    rollout = experience.rollouts[0]
    assert rollout.records[0].latents.shape == (4, 16, 2, 2, 2) and rollout.frames[0].shape == (5, 32, 32, 3)
    if image:
        assert rollout.image.first_frame and rollout.image.latents.shape == (1, 16, 1, 2, 2)


@pytest.mark.parametrize("objective", slow_but(["grpo", "nft", "rvm"], "grpo"))
def test_a_given_first_frame_teaches_nothing(tmp_path, objective):
    """The sampler's latents there reach no video: whatever they hold, the gradient is the same."""
    more = {"objective": objective, "kernel": "ode", "noise_level": None, **SIZE}
    more = dict(WINDOW) if objective == "grpo" else more
    trainer = build(tmp_path, ti2v_5b(image=True), images=images_for(PROMPTS), **more)
    experience = trainer.collect()
    before = gradients(trainer, experience, chunks(trainer, experience))
    for rollout in experience.rollouts:
        touched = [r.next_latents for r in rollout.records] + [r.latents for r in rollout.records]
        for tensor in [*touched, *([] if rollout.clean is None else [rollout.clean])]:
            tensor[:, :, 0] += 1.0
    after = gradients(trainer, experience, chunks(trainer, experience))
    assert max(float(g.abs().max()) for g in before.values()) > 0 and equal(before, after)
    for rollout in experience.rollouts:
        for tensor in [r.next_latents for r in rollout.records] if rollout.clean is None else [rollout.clean]:
            tensor[:, :, 1] += 1.0
    assert not equal(before, gradients(trainer, experience, chunks(trainer, experience)))


def chunks(trainer, experience):
    from cac_align.flow_grpo.learner.experience import chunks_of

    return chunks_of(experience, trainer.config.rows_per_forward)


@pytest.mark.slow
def test_localised_credit_has_cells_of_sixteen_pixels(tmp_path):
    """A box in the upper left quarter is one cell of four."""
    corner = Anomaly(AnomalyType.OBJECT, FrameRange(1, 4), {1: (Box(0, 0, 500, 500),)})
    verdict = Verdict(status="abnormal", score=0.1, anomalies=(corner,), window=FrameRange(1, 4), num_frames=5, fps=16)

    class Judge:
        name = "judge"

        def evaluate(self, videos, prompts, *, fps):
            scores = [float(k) for k in range(len(videos))]
            return Evaluation(scores, [verdict] * len(videos), [None] * len(videos), {"judge": scores})

        def __call__(self, videos, prompts=None, *, fps, **kwargs):
            return self.evaluate(videos, prompts, fps=fps).scores

    from cac_align.flow_grpo.trainer import FlowGRPOTrainer

    config = settings(tmp_path, batch="1x4", localised_credit=True, credit_floor=0.0, **WINDOW)
    trainer = FlowGRPOTrainer(
        config, pipe=ti2v_5b(image=True), reward=Judge(), prompts=PROMPTS, images=images_for(PROMPTS)
    )
    experience = trainer.collect()
    cells = trainer.learner._cells(experience, chunks(trainer, experience)[0])
    assert cells.shape == (4, 1, 2, 2, 2)
    assert cells[0, 0].tolist() == [[[0.0, 0.0], [0.0, 0.0]], [[8.0, 0.0], [0.0, 0.0]]]


@pytest.mark.slow
def test_a_run_resumes_and_its_lora_gives_the_trained_video(tmp_path):
    options = {"eval_prompts": EVAL_PROMPTS[:1], "save_every": 1, "learning_rate": 1e-2, **WINDOW}
    images = images_for([*PROMPTS, *EVAL_PROMPTS])
    straight = build(tmp_path / "a", ti2v_5b(image=True), images=images, max_steps=2, **options)
    straight.train()
    build(tmp_path / "b", ti2v_5b(image=True), images=images, max_steps=1, **options).train()
    resumed = build(tmp_path / "b", ti2v_5b(image=True), images=images, max_steps=2, **options)
    resumed.train()
    assert equal(weights(resumed), weights(straight))
    the_lora_gives_the_trained_video(resumed, tmp_path)


@pytest.mark.slow
def test_the_lora_of_a_step_gives_the_trained_video(tmp_path):
    trainer = build(tmp_path / "run", ti2v_5b(image=True), images=images_for(PROMPTS), learning_rate=1e-2, **WINDOW)
    trainer.run_step()
    the_lora_gives_the_trained_video(trainer, tmp_path)


def the_lora_gives_the_trained_video(trainer, tmp_path):
    fresh = ti2v_5b(image=True)
    before = video(fresh, trainer)
    load_lora(fresh, trainer.export(tmp_path / "lora"))
    with trainer.learner.averaged_weights():
        expected = video(trainer.pipe, trainer)
    assert torch.equal(video(fresh, trainer), expected) and not torch.equal(before, expected)


def video(pipe, trainer):
    texts = trainer.texts.condition([PROMPTS[0]], "")
    return pipe(
        image=images_for(PROMPTS)[PROMPTS[0]],
        prompt_embeds=texts.positive,
        negative_prompt_embeds=texts.negative,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **SIZE,
    ).frames


@pytest.mark.slow
def test_one_checkpoint_serves_text_and_images(tmp_path):
    """The files name the pipeline for text; prompts with images open the other one."""
    ti2v_5b().save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    images_for(PROMPTS[:1])[PROMPTS[0]].save(tmp_path / "first.png")
    prompts.write_text('{"prompt": "a ball", "image": "first.png"}\n')
    config = settings(tmp_path / "run", model=str(tmp_path / "model"))
    assert type(load_pipeline(config)).__name__ == "WanPipeline"
    assert type(load_pipeline(config, images=images_for(PROMPTS))).__name__ == "WanImageToVideoPipeline"
    listed = settings(tmp_path / "run", model=str(tmp_path / "model"), prompts=str(prompts), **SIZE)
    opened = load_pipeline(listed)
    assert type(opened).__name__ == "WanImageToVideoPipeline" and opened.config.expand_timesteps

    from cac_align.commands.best_of_n import load_any_pipeline

    model = str(tmp_path / "model")
    assert type(load_any_pipeline(model, "cpu", image=True)).__name__ == "WanImageToVideoPipeline"
    assert type(load_any_pipeline(model, "cpu")).__name__ == "WanPipeline"


def test_sizes_that_the_pipeline_would_round_are_refused_and_small_ones_warned_about(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"height=48 must be a multiple of 32 .*16 pixels a latent cell.*set it to 64"):
        build(tmp_path, ti2v_5b(), **{**WINDOW, "height": 48})
    with caplog.at_level(logging.WARNING):
        build(tmp_path, ti2v_5b(), **WINDOW)
    assert "32x32 is far below the size that Wan 2.2 TI2V-5B was trained at" in caplog.text


@pytest.mark.parametrize("kind", slow_but(["a14b", "5b", "5b image"]))
def test_best_of_n(kind, tmp_path):
    pipe = a14b() if kind == "a14b" else ti2v_5b(image="image" in kind)
    more = {"guidance_scale_2": 1.5, "height": 16, "width": 16} if kind == "a14b" else dict(SIZE)
    if "image" in kind:
        more["image"] = images_for(PROMPTS)[PROMPTS[0]]
    call = {"num_frames": 5, "num_inference_steps": 4, "guidance_scale": 3.0, "max_sequence_length": 16, **more}
    out = best_of_n(pipe, PROMPTS[0], reward=brightness, n=2, batch_size=2, progress_bar=False, **call)
    alone = best_of_n(pipe, PROMPTS[0], reward=brightness, n=2, progress_bar=False, output_dir=tmp_path, **call)
    apart = [np.abs(a.astype(int) - b).max() for a, b in zip(out.candidates, alone.candidates, strict=True)]
    assert max(apart) <= 1, "batched arithmetic rounds"
    assert out.scores[out.best] == max(out.scores) and (tmp_path / "report.html").is_file()
    if kind == "a14b":
        marks = alone.settings["pipeline"]["components"]
        assert marks["transformer"] != marks["transformer_2"], "another second expert is another pipeline"
        plain = best_of_n(
            pipe, PROMPTS[0], reward=brightness, n=2, progress_bar=False, **{**call, "guidance_scale_2": 3.0}
        )
        assert not np.array_equal(plain.candidates[0], out.candidates[0])
