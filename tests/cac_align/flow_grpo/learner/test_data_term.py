"""The data term: its loss by plain floats, the order of its videos, their latents, and what it does to an update."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError
from cac_align.flow_grpo.learner.data_term import draws_of, draws_of_process, flow_matching_loss
from cac_align.flow_grpo.learner.nft import forward_noise, forward_sigmas
from cac_align.flow_grpo.sampler.clips import ClipLatents, clips_digest, encode_frames, find_clips, read_clip, vae_id
from reward_model.video.clip import VideoError
from reward_model.video.writing import write_video
from tests.cac_align.flow_grpo.runs import build, equal, settings, shallow_pipe, weights
from tests.campaigns import slow_but

ON_VIDEOS = {"kernel": "ode", "noise_level": None}
OBJECTIVES = {"grpo": {}, "nft": {"objective": "nft", **ON_VIDEOS}, "rvm": {"objective": "rvm", **ON_VIDEOS}}


def video(seed, count=9, height=32, width=48):
    """A smooth picture that moves, so that a codec keeps it."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 2 * t + 5 * seed) / 9) * np.cos(y / 7) for t in range(count)]
    return np.stack([np.stack([127 + 100 * w, 127 - 90 * w, 60 + 50 * w], -1) for w in waves]).astype(np.uint8)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    for k in range(3):
        write_video(folder / f"a red ball moves right-{k}.mp4", video(k), 16)
    return folder


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_plain_floats():
    generator = torch.Generator().manual_seed(0)
    v, clean, noise = (torch.randn(3, 2, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    policy = v.clone().requires_grad_()
    loss = flow_matching_loss(policy, clean, noise)
    (found,) = torch.autograd.grad(loss.sum(), policy)
    for k in range(3):
        rows = [t[k].flatten().tolist() for t in (v, clean, noise)]
        errors = [x - (e - c) for x, c, e in zip(*rows, strict=True)]
        assert loss[k].item() == pytest.approx(sum(e * e for e in errors) / 8, rel=1e-12)
        assert found[k].flatten().tolist() == pytest.approx([2 * e / 8 for e in errors], rel=1e-12)


def test_golden_numbers():
    """v = 1, 2, 3; u = noise - clean = .5, 2.5, 1: errors .5, -.5, 2."""
    v, clean, noise = (torch.tensor([row], dtype=torch.float64) for row in ([1, 2, 3], [0.5, -1, 1], [1, 1.5, 2]))
    assert flow_matching_loss(v, clean, noise).tolist() == [1.5]
    assert flow_matching_loss(noise - clean, clean, noise).tolist() == [0.0], "the true velocity costs nothing"


def test_every_video_comes_once_each_time_round():
    drawn = [d for update in range(10) for d in draws_of(update, 3, 5, seed=7)]
    for k in range(0, 30, 5):
        assert sorted(d.clip for d in drawn[k : k + 5]) == [0, 1, 2, 3, 4]
    assert len({d.seed for d in drawn}) == 30 and draws_of(4, 3, 5, seed=7) == drawn[12:15]
    assert [d.clip for d in drawn[:5]] != [d.clip for d in drawn[5:10]]


@pytest.mark.parametrize(("count", "processes", "rows"), [(4, 1, 4), (4, 2, 1), (5, 2, 2), (3, 4, 2), (1, 2, 8)])
def test_shares_are_equally_long_and_count_each_video_once(count, processes, rows):
    draws = draws_of(0, count, 20, seed=0)
    shares = [draws_of_process(draws, k, processes, rows) for k in range(processes)]
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
    counted = [d for share in shares for batch in share for d in batch if d.counted]
    assert sorted(d.seed for d in counted) == sorted(d.seed for d in draws)
    assert all(0 < len(batch) <= rows for share in shares for batch in share)


# --- the videos -------------------------------------------------------------------------------------------------------


def test_folders_and_lists(footage, tmp_path):
    clips = find_clips(footage)
    assert [c.prompt for c in clips] == ["a red ball moves right"] * 3
    shutil.copy(clips[1].path, tmp_path / "x.mp4")
    lines = [{"video": "x.mp4", "prompt": " a blue ball ", "more": 1}, {"video": str(clips[0].path), "prompt": "two"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    listed = find_clips(tmp_path / "list.jsonl")
    assert [(c.path.name, c.prompt) for c in listed] == [("x.mp4", "a blue ball"), (clips[0].path.name, "two")]
    assert clips_digest(listed) != clips_digest(listed[::-1])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"video": "none.mp4", "prompt": "x"}', "line 1: there is no video"),
        ('{"video": "none.mp4"}', "line 1 needs texts under 'video' and 'prompt'"),
        ("[1]", "line 1: not a JSON object"),
        ("", "names no video"),
    ],
)
def test_broken_lists_name_the_line(tmp_path, line, said):
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(ValueError, match=said):
        find_clips(tmp_path / "list.jsonl")


def test_a_clip_has_the_size_the_length_and_the_rate_of_the_run(footage):
    clip = find_clips(footage)[0]
    frames = read_clip(clip, 5, 16, 16, fps=16)
    assert frames.shape == (5, 16, 16, 3)
    middle = video(0)[:5, :, 8:40].astype(float).reshape(5, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(frames - middle).mean() < 4, "the middle square, not the whole picture squeezed"
    half = read_clip(clip, 5, 16, 16, fps=8)
    assert np.abs(half.astype(float) - read_clip(clip, 9, 16, 16, fps=16)[::2]).max() == 0
    with pytest.raises(VideoError, match=r"lasts 0.56 s, shorter than the 10 frames at 16 fps"):
        read_clip(clip, 10, 16, 16, fps=16)
    with pytest.raises(VideoError, match="has 16 frames a second, fewer than the 24 of the run"):
        read_clip(clip, 5, 16, 16, fps=24)


def test_latents_are_those_the_pipeline_decodes():
    pipe = shallow_pipe()
    pipe.vae = copy.deepcopy(pipe.vae)  # the other tests' is the same
    pipe.vae.register_to_config(latents_mean=[0.1 * k for k in range(16)], latents_std=[1 + 0.1 * k for k in range(16)])
    frames = video(0, 5, 16, 16)
    found = encode_frames(pipe, frames)
    assert found.shape == (16, 2, 2, 2)
    with torch.no_grad():
        pixels = pipe.video_processor.preprocess_video(frames[None].astype(np.float32) / 255)
        mean = pipe.vae.encode(pixels).latent_dist.mean[0]
    for k in range(16):
        assert torch.allclose(found[k], (mean[k] - 0.1 * k) / (1 + 0.1 * k), atol=1e-5), k


def test_latents_are_made_once(footage, tmp_path):
    pipe, config = shallow_pipe(), settings(tmp_path, data_regulariser=str(footage))
    latents = ClipLatents(find_clips(footage), config, vae_id(pipe))
    assert latents.fill(pipe) == 3 and latents.fill(pipe) == 0 and latents[1].shape == (16, 2, 2, 2)
    latents.path(latents.clips[1]).write_bytes(b"cut off")
    assert latents.fill(pipe) == 1
    longer = settings(tmp_path, data_regulariser=str(footage), num_frames=9)
    assert len({x.path(latents.clips[0]) for x in (latents, ClipLatents(latents.clips, longer, vae_id(pipe)))}) == 2
    too_long = ClipLatents(latents.clips, settings(tmp_path, num_frames=13), vae_id(pipe))
    with pytest.raises(ValueError, match=r"shorter than the 13 frames.*; and 2 more; leave"):
        too_long.fill(pipe)


# --- the update -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", slow_but(OBJECTIVES, "grpo"))
def test_the_gradient_is_that_of_both_losses(footage, tmp_path, objective):
    """The same videos with and without the term: the difference is the gradient of the loss, written out."""
    from tests.cac_align.flow_grpo.test_trainer import distance, gradients

    more = {"batch": "1x4", "data_batch": 2, "data_weight": 0.5, **OBJECTIVES[objective]}
    trainer = build(tmp_path, data_regulariser=str(footage), **more)
    experience, learner = trainer.collect(), trainer.learner
    both, data = gradients(trainer, experience), learner.data
    learner.data = None
    alone = gradients(trainer, experience)
    loss = 0.0
    for draw in draws_of(0, 2, 3, trainer.config.seed):
        clean = data.clips[draw.clip][None]
        time = forward_sigmas([draw.seed], 0)[0]
        sigma = 7 * time / (1 + 6 * time)  # the tiny model's shift
        noise = forward_noise([draw.seed], 0, clean)
        velocity = trainer.transformer(
            hidden_states=(1 - sigma) * clean + sigma * noise,
            timestep=1000 * sigma[None],
            encoder_hidden_states=trainer.texts.batch(["a red ball moves right"]),
            return_dict=False,
        )[0]
        loss = loss + 0.5 * (velocity - (noise - clean)).square().mean() / 2
    expected = dict(zip(alone, torch.autograd.grad(loss, list(learner.parameters.values())), strict=True))
    assert distance({k: both[k] - alone[k] for k in both}, expected) < 1e-4


@pytest.mark.slow
def test_a_run_learns_its_videos_and_says_so(footage, tmp_path):
    """With next to nothing from the reward, the loss on the videos falls."""
    more = {"max_steps": 8, "data_weight": 10.0, "learning_rate": 2e-2, "batch": "1x4", "data_batch": 6}
    trainer = build(tmp_path, data_regulariser=str(footage), **more, **OBJECTIVES["rvm"])
    losses = [trainer.run_step()[1]["data/loss"] for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])


def test_other_videos_are_another_run(footage, tmp_path):
    shutil.copytree(footage, tmp_path / "videos")
    options = {"data_regulariser": str(tmp_path / "videos"), "batch": "1x4", "data_batch": 2, **OBJECTIVES["rvm"]}
    first = build(tmp_path / "run", **options)
    first.run_step()
    first.save()
    write_video(next((tmp_path / "videos").iterdir()), video(9), 16)
    with pytest.raises(TrainingCheckpointError, match="data_regulariser_digest was"):
        build(tmp_path / "run", **options).train()


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(footage, tmp_path):
    shutil.copytree(footage, tmp_path / "videos")
    options = {"max_steps": 4, "batch": "1x4", "data_batch": 2, **OBJECTIVES["rvm"]}
    straight = build(tmp_path / "run", data_regulariser=str(tmp_path / "videos"), **options)
    straight.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = build(tmp_path / "run", data_regulariser=str(footage), **options)
    again.train()
    assert equal(weights(again), weights(straight))


def test_what_cannot_work_is_refused_before_anything_is_judged(footage, tmp_path):
    class Untouched:
        def __call__(self, *args, **kwargs):
            raise AssertionError("something was judged")

    with pytest.raises(ValueError, match=r"videos of the data term: nowhere \(no such folder or .jsonl file\)"):
        build(tmp_path, reward=Untouched(), data_regulariser="nowhere")
    with pytest.raises(ValueError, match=r"data_regulariser=.*shorter than the 13 frames at 16 fps"):
        build(tmp_path, reward=Untouched(), data_regulariser=str(footage), num_frames=13)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        build(tmp_path, reward=Untouched(), data_regulariser=str(tmp_path / "empty"))


def test_pipelines_that_take_images_are_refused(tmp_path):
    from cac_align.flow_grpo.loading import clips_of

    config = settings(tmp_path, data_regulariser="footage")
    with pytest.raises(ValueError, match="data_regulariser='footage' does not fit an image-to-video pipeline"):
        clips_of(config, {"a prompt": object()})
    assert clips_of(settings(tmp_path), {"a prompt": object()}) == []


# --- the selective anchor ---------------------------------------------------------------------------------------------

TOYS = "tests.cac_align.flow_grpo.toy_rewards"


@pytest.mark.parametrize("objective", slow_but(OBJECTIVES))
def test_the_anchor_holds_only_where_rewards_disagree(tmp_path, objective):
    """Without advantages only the anchor pulls: with all factors 1 as ever, with none not at all, and it is a sum."""
    from tests.cac_align.flow_grpo.test_trainer import distance, gradients

    trainer = build(tmp_path, beta=0.5, batch="1x4", learning_rate=1e-2, **OBJECTIVES[objective])
    trainer.run_step()
    experience = trainer.collect()
    if objective == "rvm":  # of nft and grpo the rest of the loss is the same in all and subtracts out
        experience.advantages.values.zero_()
    plain = gradients(trainer, experience)
    found = {}
    for factors in ([1.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]):
        experience.anchors = factors
        found[tuple(factors)] = gradients(trainer, experience)
    every, none, outer, inner = found.values()
    assert equal(every, plain) and max(float((every[k] - none[k]).abs().max()) for k in every) > 0
    added = {k: outer[k] + inner[k] - none[k] for k in every}
    assert distance({k: added[k] - none[k] for k in every}, {k: every[k] - none[k] for k in every}) < 1e-3
    assert max(float((outer[k] - inner[k]).abs().max()) for k in every) > 0


def test_the_first_reward_is_compared_with_the_others(tmp_path):
    rewards = [f"{TOYS}:brightness", {"reward": f"{TOYS}:hanging", "name": "other", "weight": 0.0}]
    names = {"anchor": "selective", "anchor_rewards": ["brightness", "other"]}
    trainer = build(tmp_path, beta=0.1, batch="1x4", rewards=rewards, **names)
    experience, numbers = trainer.run_step()
    # The other reward likes all alike: rank 1/2 each, so the best and the worst disagree and the two between do not.
    order = sorted(range(4), key=lambda k: experience.rows[k].score)
    assert [experience.anchors[k] for k in order] == [1.0, 0.0, 0.0, 1.0] and numbers["policy/anchored"] == 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"anchor": "selective"}, "anchor='selective' has no effect with beta=0"),
        ({"anchor": "selective", "beta": 0.1}, "compares two rewards or more, and there is brightness; add one"),
        (
            {"anchor": "selective", "beta": 0.1, "anchor_rewards": ["cac", "brightness"]},
            "names 'cac', which is not one",
        ),
        (
            {"anchor": "selective", "beta": 0.1, "rewards": ["cac", {"reward": "unified", "weight": 0}]},
            "compares two rewards or more, and there is cac",
        ),
        ({"anchor": "some"}, "anchor='some' must be one of 'all', 'selective'"),
        ({"anchor_disagreement": 0.5}, "anchor_disagreement=0.5 does not fit anchor 'all'"),
        ({"data_weight": 0.0}, "data_weight=0.0 must be a finite number above 0"),
        ({"data_batch": 0}, "data_batch=0 must be a whole number of at least 1"),
        ({"frozen_adapter_weight": -1.0}, "frozen_adapter_weight=-1.0 must be a finite number above 0"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, **wrong)
