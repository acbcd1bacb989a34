"""Wan 2.2 A14B through the trainer: an adapter, metrics and an anchor for each of the two experts."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError
from cac_align.flow_grpo.learner.experience import chunks_of
from cac_align.flow_grpo.learner.lora_convert import convert_lora
from cac_align.flow_grpo.learner.lora_files import EXPERT_COMFYUI_WEIGHTS, EXPERT_WEIGHTS, load_lora
from cac_align.flow_grpo.sampler.experts import PHASES, velocity_of
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from reward_model.video.writing import write_video
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, PROMPTS, equal, gradients, settings, shallow_pipe, weights
from tests.cac_align.flow_grpo.wan22 import a14b, build, of, pictures
from tests.campaigns import slow_but

PARTS = tuple(PHASES)
#: The two windows of one step that belong to one expert alone: of four steps the first two are of high noise.
WINDOW = {"transformer": {"window_start": 0}, "transformer_2": {"window_start": 2}}
FINISHED = {"kernel": "ode", "noise_level": None}


pytestmark = pytest.mark.usefixtures("one_thread")


def moved(before, after):
    """The experts that have a changed weight."""
    return [part for part in PARTS if not equal(of(part, before), of(part, after))]


@pytest.mark.parametrize("image", slow_but([False, True], True))
def test_both_adapters_learn_and_the_ratio_is_exactly_one(tmp_path, image):
    images = pictures() if image else None
    pipe, more = a14b(image=image), {"window_mode": "all", "beta": 0.1, "guidance_scale_2": 2.0}
    base = {k: v.clone() for k, v in pipe.transformer_2.state_dict().items()}
    trainer = build(tmp_path, pipe, images=images, learning_rate=1e-2, **more)
    before = weights(trainer)
    assert len(before) == 2 * 16 and len(of("transformer", before)) == 16
    assert not equal(
        {k.partition(".")[2]: v for k, v in of("transformer", before).items()},
        {k.partition(".")[2]: v for k, v in of("transformer_2", before).items()},
    ), "each starts on its own"
    trainer.run_step()
    after = weights(trainer)
    assert moved(before, after) == list(PARTS)
    assert trainer.self_check() == {"floor": 0.0, "limit": 1e-3, "log_prob": 0.0}
    _, numbers = trainer.run_step()
    assert numbers["ratio/log_ratio_abs_max"] == 0.0
    for phase, passes in (
        ("high_noise", 8),
        ("low_noise", 4),
    ):  # two steps and one of four videos: the last has no noise
        assert numbers[f"{phase}/policy/passes"] == passes and numbers[f"{phase}/policy/kl"] > 0
        assert numbers[f"{phase}/ratio/log_ratio_abs_max"] == 0.0
    norms = [numbers[f"{phase}/policy/grad_norm"] for phase in PHASES.values()]
    assert numbers["policy/grad_norm"] == pytest.approx(math.hypot(*norms))
    state = {k.replace(".base_layer", ""): v for k, v in pipe.transformer_2.state_dict().items() if "lora_" not in k}
    assert equal(state, base)


@pytest.mark.parametrize("part", slow_but(PARTS))
def test_an_expert_moves_in_its_phase_only(tmp_path, part):
    """Also where AdamW has momentum and decay for the other one: what is not trained stays bit for bit."""
    trainer = build(tmp_path, a14b(), window_mode="all", weight_decay=0.1)
    trainer.run_step()
    before = weights(trainer)
    for name, value in {"window_mode": "fixed", "window_size": 1, **WINDOW[part]}.items():
        object.__setattr__(trainer.config, name, value)
    for name in ("window", "num_trained_steps"):
        trainer.config.__dict__.pop(name, None)
    trainer.learner.passes = 1
    _, numbers = trainer.run_step()
    assert moved(before, weights(trainer)) == [part]
    other = next(phase for name, phase in PHASES.items() if name != part)
    assert not any(name.startswith(other) for name in numbers) and f"{PHASES[part]}/policy/loss" in numbers


@pytest.mark.parametrize("objective", slow_but(["nft", "rvm"]))
def test_finished_videos_are_trained_in_pure_micro_batches(tmp_path, objective):
    """Noise levels are each video's own, so a call of four videos holds both experts: it is split, and the sum is that
    of the videos one by one."""
    more = {"objective": objective, "batch": "1x4", f"{objective}_num_sigmas": 3, "beta": 0.01, **FINISHED}
    trainer = build(tmp_path, a14b(), learning_rate=1e-2, **more)
    experience = trainer.collect()
    seen = []
    forward = trainer.learner.bare.forward

    def noting(latents, timestep, condition):
        seen.append((len(latents), {bool(t >= 875) for t in timestep.flatten()}))
        return forward(latents, timestep, condition)

    trainer.learner.bare.forward = noting
    whole = chunks_of(experience, 4)
    found, single = (gradients(trainer, experience, chunks) for chunks in (whole, chunks_of(experience, 1)))
    trainer.learner.bare.forward = forward
    assert len(whole) == 1 and all(len(sides) == 1 for _, sides in seen) and any(1 < size < 4 for size, _ in seen)
    scale = max(float(v.abs().max()) for v in single.values())
    assert scale > 0 and max(float((found[k] - single[k]).abs().max()) for k in found) < 1e-4 * scale
    with pytest.raises(ValueError, match="mixes the experts"):
        trainer.learner.step_loss(experience, whole[0], 0)
    before = weights(trainer)
    trainer.learner.learn(experience)
    assert moved(before, weights(trainer)) == list(PARTS)


@pytest.mark.parametrize("objective", slow_but(["guard", "dppo"]))
def test_other_objectives_train_both_experts(tmp_path, objective):
    more = {"objective": objective, "window_mode": "all", "step_weighting": "inv_c", "num_iterations": 2}
    trainer = build(tmp_path, a14b(), num_minibatches=2, **more)
    before = weights(trainer)
    _, numbers = trainer.run_step()
    assert moved(before, weights(trainer)) == list(PARTS) and math.isfinite(numbers["low_noise/policy/loss"])


@pytest.mark.slow
def test_the_reference_is_each_expert_without_its_adapter(tmp_path):
    trainer = build(tmp_path, a14b(), window_mode="all", learning_rate=0.1)
    trainer.run_step()
    rollout = trainer.collect().rollouts[0]
    condition = trainer.texts.condition([rollout.prompt] * 4, "")
    fresh = velocity_of(a14b(), trainer.config)
    with torch.no_grad():
        for record in rollout.records:
            found = trainer.learner.replay.reference_velocity(record.latents, record.timestep, condition)
            assert torch.equal(found, fresh(record.latents, record.timestep, condition))
            assert not torch.equal(found, trainer.learner.bare(record.latents, record.timestep, condition))


@pytest.mark.slow
@pytest.mark.parametrize("part", [None, "transformer"])
def test_a_run_resumes_bit_for_bit_and_exports_both_adapters(tmp_path, part):
    """Also where one expert has had no update yet, and AdamW no state for it."""
    window = {"window_mode": "all"} if part is None else {"window_mode": "fixed", "window_size": 1, **WINDOW[part]}
    more = {"eval_prompts": EVAL_PROMPTS[:1], "save_every": 1, "eval_every": 2, "learning_rate": 1e-2, **window}
    straight = build(tmp_path / "a", a14b(), max_steps=3, guidance_scale_2=2.0, **more)
    straight.train()
    build(tmp_path / "b", a14b(), max_steps=1, guidance_scale_2=2.0, **more).train()
    resumed = build(tmp_path / "b", a14b(), max_steps=3, guidance_scale_2=2.0, **more)
    resumed.train()
    assert equal(weights(resumed), weights(straight))
    both_adapters_are_exported(resumed, tmp_path, matters=part is None)


@pytest.mark.parametrize("part", slow_but(PARTS, "transformer"))
def test_a_step_is_saved_opened_and_exported(tmp_path, part):
    """Where one expert has had no update yet, and AdamW no state for it."""
    window = {"window_mode": "fixed", "window_size": 1, **WINDOW[part]}
    trainer = build(tmp_path, a14b(), learning_rate=1e-2, guidance_scale_2=2.0, **window)
    before = weights(trainer)
    trainer.run_step()
    assert moved(before, weights(trainer)) == [part]
    folder = trainer.save()
    opened = build(tmp_path, a14b(), learning_rate=1e-2, guidance_scale_2=2.0, **window)
    opened.resume(folder)
    assert opened.step == 1 and equal(weights(opened), weights(trainer))
    for one, other in zip(trainer.learner.parameters.values(), opened.learner.parameters.values(), strict=True):
        old, new = (t.learner.optimizer.optimizer.state.get(p, {}) for t, p in ((trainer, one), (opened, other)))
        assert set(old) <= set(new), "what was never updated is opened as zeros, with which AdamW begins"
        assert all(torch.equal(value, old.get(name, torch.zeros_like(value))) for name, value in new.items())
    if part == "transformer":
        both_adapters_are_exported(opened, tmp_path, matters=False)


def both_adapters_are_exported(resumed, tmp_path, *, matters):
    folder = resumed.export(tmp_path / "lora")
    names = {*EXPERT_WEIGHTS.values(), *EXPERT_COMFYUI_WEIGHTS.values()}
    assert names <= {p.name for p in folder.iterdir()} and not (folder / "lora_comfyui.safetensors").exists()
    card = (folder / "README.md").read_text()
    assert f'weight_name="{EXPERT_WEIGHTS["transformer_2"]}", load_into_transformer_2=True)' in card
    with resumed.learner.averaged_weights():
        expected = frames(resumed.pipe, resumed)
    untrained = frames(a14b(), resumed)
    assert not torch.equal(untrained, expected)
    plain, ours, converted = a14b(), a14b(), a14b()
    plain.load_lora_weights(folder)
    plain.load_lora_weights(folder, weight_name=EXPERT_WEIGHTS["transformer_2"], load_into_transformer_2=True)
    load_lora(ours, folder)
    for name, file in EXPERT_COMFYUI_WEIGHTS.items():
        back = convert_lora(folder / file, tmp_path / f"{name}.safetensors", "diffusers").path
        load_lora(converted, back, load_into_transformer_2=name == "transformer_2")
    for pipe in (plain, ours, converted):
        assert torch.equal(frames(pipe, resumed), expected)
    if matters:
        half = a14b()
        half.load_lora_weights(folder)
        assert not torch.equal(frames(half, resumed), expected), "the second adapter matters"
    with pytest.raises(ValueError, match=r"for the second expert of .*, and WanPipeline has one transformer"):
        load_lora(shallow_pipe(), folder)


def frames(pipe, trainer):
    """A video drawn as users draw it, by a seed."""
    embeds = trainer.texts.condition([PROMPTS[0]], "")
    return pipe(
        prompt_embeds=embeds.positive,
        negative_prompt_embeds=embeds.negative,
        height=16,
        width=16,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=3.0,
        guidance_scale_2=2.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).frames


@pytest.mark.parametrize("sharing", slow_but(["exact", "single"]))
def test_videos_that_begin_where_the_second_expert_does(tmp_path, sharing):
    """What lies before the window is drawn once for a group: the first expert is not asked again, and the image's
    condition is read off the second."""
    more = {"same_initial_noise": True, "shared_prefix": sharing, "sample_batch_size": 2}
    window = {"window_mode": "fixed", "window_size": 1, **WINDOW["transformer_2"]}
    trainer = build(tmp_path, a14b(image=True), images=pictures(), **more, **window)
    asked = dict.fromkeys(PARTS, 0)
    for part in PARTS:
        getattr(trainer.pipe, part).register_forward_hook(lambda *_, part=part: asked.update({part: asked[part] + 1}))
    experience = trainer.collect()
    assert asked == {"transformer": 4, "transformer_2": 8}, "two steps of two sides; those of the second for two calls"
    for rollout in experience.rollouts:
        assert torch.equal(rollout.image.latents, experience.rollouts[0].image.latents)
        condition = trainer.texts.condition([rollout.prompt] * 2, "", image=rollout.image)
        assert trainer.learner.replay.noise_floor(rollout.records, condition)["floor"] == 0.0
    assert trainer.run_step()[1]["low_noise/policy/passes"] == 4


@pytest.mark.slow
def test_the_data_term_asks_the_expert_of_each_noise_level(tmp_path):
    """The window is the second expert's alone; the first is moved by videos that were noised above the boundary."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for k in range(2):
        write_video(tmp_path / "clips" / f"a red ball moves right-{k}.mp4", frames, 16)
    window = {"window_mode": "fixed", "window_size": 1, **WINDOW["transformer_2"]}
    data = {"data_regulariser": str(tmp_path / "clips"), "data_batch": 6}
    for name, more, wanted in (("plain", {}, list(PARTS[1:])), ("data", data, list(PARTS))):
        trainer = build(tmp_path / name, a14b(), **window, **more)
        before = weights(trainer)
        trainer.run_step()
        assert moved(before, weights(trainer)) == wanted


@pytest.mark.slow
def test_a_folder_opens_with_both_experts(tmp_path):
    a14b().save_pretrained(tmp_path / "model")
    config = settings(tmp_path / "run", model=str(tmp_path / "model"), batch="1x2", window_mode="all")
    trainer = FlowGRPOTrainer(config, prompts=PROMPTS)
    assert trainer.pipe.config.boundary_ratio == 0.875 and trainer.pipe.transformer_2 is not None
    before = weights(trainer)
    trainer.run_step()
    assert moved(before, weights(trainer)) == list(PARTS)


def test_what_does_not_fit_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"guidance_scale_2=2 has no effect at guidance_scale=1.*set guidance_scale_2"):
        settings(tmp_path, guidance_scale=1.0, guidance_scale_2=2.0)
    with pytest.raises(ValueError, match=r"guidance_scale_2=2 is that of a second expert.*has one transformer"):
        build(tmp_path, shallow_pipe(), guidance_scale_2=2.0)
    with pytest.raises(ValueError, match=r"all 4 steps belong to the expert for low noise.*change flow_shift"):
        build(tmp_path, boundary(1.1))
    with pytest.raises(ValueError, match=r"all 4 steps belong to the expert for high noise"):
        build(tmp_path, boundary(0.0))
    one, two = few_step_adapters(tmp_path)
    with pytest.raises(ValueError, match=r"two experts, each of which needs a frozen adapter of its own.*name both"):
        build(tmp_path, a14b(), frozen_adapter=one)
    with pytest.raises(ValueError, match=r"frozen_adapter_2=.* is that of a second expert, and .* has one transformer"):
        build(tmp_path, shallow_pipe(), frozen_adapter=one, frozen_adapter_2=two)
    with pytest.raises(ValueError, match=r"frozen_adapter_2=.* is the second of two; name frozen_adapter"):
        settings(tmp_path, frozen_adapter_2=two)
    other = {f"transformer.blocks.7.attn1.to_q.lora_{k}.weight": torch.ones(24, 24) for k in "AB"}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"frozen_adapter_2=.* is one of another model"):
        build(tmp_path, a14b(), frozen_adapter=one, frozen_adapter_2=str(tmp_path / "other.safetensors"))
    monkeypatch.setattr("cac_align.flow_grpo.learner.phases.is_sharded", lambda accelerator: True)
    with pytest.raises(ValueError, match=r"two experts .* cannot be trained with FSDP2 or DeepSpeed.*ddp.yaml"):
        build(tmp_path, a14b())


def few_step_adapters(folder):
    """Files of two adapters, one for each expert, which change what it says."""
    files = []
    for k, part in enumerate(PARTS):
        generator = torch.Generator().manual_seed(k)
        shapes = {"A": (2, 24), "B": (24, 2)}
        name = "transformer.blocks.0.attn1.to_v.lora_{}.weight"
        tensors = {name.format(side): torch.randn(shape, generator=generator) for side, shape in shapes.items()}
        files.append(str(folder / f"{part}.safetensors"))
        save_file(tensors, files[-1])
    return files


@pytest.mark.filterwarnings("ignore:Already found a .peft_config.")
def test_each_expert_has_its_frozen_adapter_under_the_trained_one(tmp_path):
    one, two = few_step_adapters(tmp_path)
    more = {"frozen_adapter": one, "frozen_adapter_2": two, "frozen_adapter_weight": 0.5, "window_mode": "all"}
    more |= {"learning_rate": 1e-2, "beta": 0.1}
    trainer = build(tmp_path / "run", a14b(), max_steps=1, **more)
    frozen = {part: {k: v.clone() for k, v in kept(trainer.pipe, part).items()} for part in PARTS}
    assert all(frozen.values()) and not equal(frozen["transformer"], frozen["transformer_2"])
    before = weights(trainer)
    trainer.train()
    assert moved(before, weights(trainer)) == list(PARTS)
    assert all(equal(kept(trainer.pipe, part), frozen[part]) for part in PARTS)
    folder = trainer.export(tmp_path / "lora")
    card = (folder / "README.md").read_text()
    assert f"the frozen adapters `{one}` (high noise) and `{two}` (low noise)" in card
    lines = card.partition("from_pretrained(")[2].partition("\n")[2].partition("```")[0]
    pipe = a14b()
    exec(lines, {"pipe": pipe})
    with trainer.learner.averaged_weights():
        assert torch.equal(frames(pipe, trainer), frames(trainer.pipe, trainer))
    again = build(tmp_path / "run", a14b(), max_steps=2, **more)
    again.train()
    assert again.step == 2


def kept(pipe, part):
    """The frozen adapter of an expert."""
    return {k: v for k, v in getattr(pipe, part).named_parameters() if ".frozen." in k}


def boundary(ratio):
    pipe = a14b()
    pipe.register_to_config(boundary_ratio=ratio)
    return pipe


@pytest.mark.slow
def test_another_boundary_is_another_run(tmp_path):
    build(tmp_path, a14b(), max_steps=1, save_every=1).train()
    with pytest.raises(TrainingCheckpointError, match=r"expert_boundary was 875\.0 and is now 900\.0"):
        build(tmp_path, boundary(0.9), max_steps=2).train()
