"""Image-to-video: the unmodified pipeline draws, and training sees the condition it drew with.

Tiny real pipelines of both kinds, with an image encoder (Wan 2.1) and without one.
"""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError
from cac_align.flow_grpo.loading import load_pipeline
from cac_align.flow_grpo.run_prompts import prompt_images
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, PROMPTS, equal, settings, shallow_pipe, weights
from tests.campaigns import slow_but
from tests.conftest import _quiet, _wan_parts

pytestmark = pytest.mark.usefixtures("one_thread")


def image_pipe(encoder=True):
    """The same weights every time; all share what no training touches."""
    from diffusers import WanImageToVideoPipeline

    parts = _image_parts(encoder)
    own = {k: copy.deepcopy(parts[k]) for k in ("transformer", "scheduler")}
    return _quiet(WanImageToVideoPipeline(**{**parts, **own}))


@functools.cache
def _image_parts(encoder):
    from diffusers import WanTransformer3DModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    parts = _wan_parts(36, num_layers=1)
    if not encoder:
        return {**parts, "image_processor": None, "image_encoder": None}
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
    vision = CLIPVisionConfig(hidden_size=4, projection_dim=4, patch_size=16, **shape)
    torch.manual_seed(0)
    transformer = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    parts["transformer"] = WanTransformer3DModel(**{**transformer, "image_dim": 4, "added_kv_proj_dim": 24})
    processor = CLIPImageProcessor(crop_size=32, size=32)
    return {**parts, "image_processor": processor, "image_encoder": CLIPVisionModelWithProjection(vision).eval()}


def pictures(prompts, shade=0):
    draw = np.random.default_rng(shade)
    return {prompt: Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for prompt in prompts}


def build(folder, *, pipe=None, images=None, eval_prompts=(), **changes):
    every = [*PROMPTS, *eval_prompts]
    return FlowGRPOTrainer(
        settings(folder, **changes),
        pipe=pipe or image_pipe(),
        prompts=PROMPTS,
        eval_prompts=list(eval_prompts),
        images=pictures(every) if images is None else images,
    )


@pytest.mark.parametrize("both", slow_but([True, False], True), ids=["encoder-batched", "plain"])
def test_ratio_is_exactly_one_and_the_adapter_learns(tmp_path, both):
    trainer = build(tmp_path, pipe=image_pipe(encoder=both), batched_guidance=both, beta=0.1, batch="1x4")
    before = weights(trainer)
    trainer.run_step()
    after = weights(trainer)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert trainer.self_check() == {"floor": 0.0, "limit": 1e-3, "log_prob": 0.0}
    experience, numbers = trainer.run_step()
    assert numbers["ratio/log_ratio_abs_max"] == 0.0 and numbers["policy/kl"] > 0
    image = experience.rollouts[0].image
    assert image.latents.shape == (1, 20, 2, 2, 2) and (image.embeds is not None) is both


def test_replay_with_another_image_is_another_policy(tmp_path):
    """Both parts of the condition reach the replay: change either, and log-probs move."""
    trainer = build(tmp_path, batch="1x4")
    rollout = trainer.collect().rollouts[0]
    condition = trainer.texts.condition([rollout.prompt] * 4, "", image=rollout.image)
    changes = (
        {"latents": rollout.image.latents + 0.5},
        {"embeds": rollout.image.embeds.flip(1) + 0.5},
    )
    for change in changes:
        found = trainer.learner.replay.noise_floor(
            rollout.records, replace(condition, image=replace(rollout.image, **change))
        )
        assert found["floor"] > 0
    assert trainer.learner.replay.noise_floor(rollout.records, condition)["floor"] == 0


@pytest.mark.slow
def test_videos_of_two_images_differ(tmp_path):
    one, two = (build(tmp_path / str(k), images=pictures(PROMPTS, k), batch="1x2").collect() for k in (0, 1))
    first, second = one.rollouts[0], two.rollouts[0]
    assert first.specs == second.specs and not np.array_equal(first.frames[0], second.frames[0])


@pytest.mark.slow
def test_nft_trains(tmp_path):
    trainer = build(tmp_path, objective="nft", kernel="ode", noise_level=None, beta=0.01, batch="1x4")
    before = weights(trainer)
    _, numbers = trainer.run_step()
    assert not equal(weights(trainer), before) and np.isfinite(numbers["policy/loss"])


@pytest.mark.slow
def test_a_run_evaluates_resumes_and_exports(tmp_path):
    options = {"eval_prompts": EVAL_PROMPTS[:1], "save_every": 1, "eval_every": 1, "learning_rate": 1e-2}
    options["batch"] = "1x4"
    straight = build(tmp_path / "a", max_steps=2, **options)
    straight.train()
    build(tmp_path / "b", max_steps=1, **options).train()
    resumed = build(tmp_path / "b", max_steps=2, **options)
    resumed.train()
    assert equal(weights(resumed), weights(straight)) and len(resumed.history) == 3
    with pytest.raises(TrainingCheckpointError, match="images was"):
        build(tmp_path / "b", max_steps=3, images=pictures([*PROMPTS, *EVAL_PROMPTS[:1]], 1), **options).train()
    the_export_is_the_policy(resumed, tmp_path)


def test_a_step_is_saved_and_exported_and_other_images_are_another_run(tmp_path):
    trainer = build(tmp_path / "run", batch="1x4", learning_rate=1e-2)
    trainer.run_step()
    trainer.save()
    with pytest.raises(TrainingCheckpointError, match="images was"):
        build(tmp_path / "run", batch="1x4", learning_rate=1e-2, images=pictures(PROMPTS, 1)).train()
    the_export_is_the_policy(trainer, tmp_path)


def the_export_is_the_policy(resumed, tmp_path):
    folder = resumed.export(tmp_path / "lora")
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-to-video" in card and "WanImageToVideoPipeline.from_pretrained" in card
    rollout = resumed.collect().rollouts[0]
    record, condition = rollout.records[0], resumed.texts.condition([rollout.prompt] * 4, "", image=rollout.image)
    fresh = image_pipe()
    policy = GuidedVelocity(fresh.transformer, 3.0)
    with torch.no_grad(), resumed.learner.averaged_weights():
        expected = resumed.learner.bare(record.latents, record.timestep, condition)
        before = policy(record.latents, record.timestep, condition)
        fresh.load_lora_weights(folder)
        found = policy(record.latents, record.timestep, condition)
    assert (found - expected).abs().max() < 1e-6 < (before - expected).abs().max()


def test_model_and_images_are_read_from_files(tmp_path):
    image_pipe(encoder=False).save_pretrained(tmp_path / "model")
    for number, picture in enumerate(pictures(PROMPTS).values()):
        picture.save(tmp_path / f"{number}.png")
    rows = [{"prompt": text, "image": f"{number}.png"} for number, text in enumerate(PROMPTS)]
    listed = tmp_path / "prompts.jsonl"
    listed.write_text("\n".join(map(json.dumps, rows)))
    config = settings(tmp_path / "run", model=str(tmp_path / "model"), prompts=str(listed))
    trainer = FlowGRPOTrainer(config)
    assert {k: np.asarray(v).tolist() for k, v in trainer.images.items()} == {
        k: np.asarray(v).tolist() for k, v in pictures(PROMPTS).items()
    }
    _, numbers = trainer.run_step()
    assert numbers["policy/grad_norm"] > 0
    listed.write_text(json.dumps({"prompt": "a ball", "image": "none.png"}))
    with pytest.raises(ValueError, match=r"line 1: image='none.png' is not a file"):
        FlowGRPOTrainer(config)


def test_photos_of_a_prompt_file_are_turned_upright(tmp_path):
    photo = Image.new("RGB", (100, 60))
    exif = photo.getexif()
    exif[274] = 6  # shown after a quarter turn
    photo.save(tmp_path / "photo.jpg", exif=exif)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "p", "image": "photo.jpg"}\n')
    config = FlowGRPOConfig(prompts=str(prompts), eval_prompts=None)
    assert prompt_images(config)["p"].size == (60, 100)
    (tmp_path / "photo.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"the image of a prompt, .*photo\.jpg.* cannot be read as a picture"):
        prompt_images(config)


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    image_pipe(encoder=False).save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(index.read_text().replace("WanImageToVideoPipeline", "WanVACEPipeline"))
    with pytest.raises(ValueError, match="is a WanVACEPipeline; only WanPipeline and WanImageToVideoPipeline"):
        load_pipeline(settings(tmp_path / "run", model=str(tmp_path / "model")))


def test_images_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"WanImageToVideoPipeline needs an image for every prompt; 3 have none"):
        build(tmp_path, images=pictures(PROMPTS[:1]))
    with pytest.raises(ValueError, match=r"4 images were given, but WanPipeline takes none"):
        build(tmp_path, pipe=shallow_pipe())
