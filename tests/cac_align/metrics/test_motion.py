"""The motion reward: the speed it measures, its limit, RAFT from a file, and single frames refused before a draw."""

import pickle

import numpy as np
import pytest

from cac_align import CompositeReward, MotionReward, best_of_n
from cac_align.flow_grpo.judging.reward_specs import build_reward
from cac_align.flow_grpo.learner.experience import ScoreRow, experience_numbers, warn_of_limits
from cac_align.flow_grpo.maths.advantages import compute_advantages
from cac_align.metrics.pixel_flow import pixel_flow, pixel_speed
from cac_align.metrics.weights import WeightsError
from cac_align.rewards.base import RewardError, check_num_frames
from reward_model.world import make_video
from reward_model.world.tracking import tracked_motion
from tests.campaigns import draws


def waves(speed, num=6, size=48, angle=0.0, period=16.0):
    """A sine grating that moves by ``speed`` pixels a frame along its own direction."""
    y, x = np.mgrid[:size, :size]
    along = x * np.cos(angle) + y * np.sin(angle)
    grey = [127 + 100 * np.sin(2 * np.pi * (along - speed * t) / period) for t in range(num)]
    return np.repeat(np.round(np.stack(grey))[..., None], 3, -1).astype(np.uint8)


# --- the measure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "angle"), [(0.3, 0.0), (1.0, 0.0), (1.0, np.pi / 2), (-0.7, 0.6)])
def test_flow_is_the_motion_of_a_grating(speed, angle):
    """What moves is known, and a grating moves along its gradient."""
    flow = pixel_flow(waves(speed, angle=angle).mean(-1))[:, :, 8:-8, 8:-8]
    found = np.median(flow, axis=(0, 2, 3))
    assert found == pytest.approx([speed * np.cos(angle), speed * np.sin(angle)], abs=0.06)


def soft_disc(speed, num=6, size=48, radius=9):
    """A disc that moves to the right by ``speed`` pixels a frame over a still ground."""
    y, x = np.mgrid[:size, :size]
    distance = [np.hypot(x - 16 - speed * t, y - size / 2) for t in range(num)]
    grey = [60 + 120 / (1 + np.exp((d - radius) / 1.5)) for d in distance]
    return np.repeat(np.round(np.stack(grey))[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_speed_is_in_sides_per_second(speed):
    frames = soft_disc(speed)
    assert pixel_speed(frames, 16) == pytest.approx(speed * 16 / 48, rel=0.05)
    assert pixel_speed(frames, 8) == pytest.approx(pixel_speed(frames, 16) / 2)
    large = frames.repeat(4, axis=1).repeat(4, axis=2)
    assert pixel_speed(large, 16) == pytest.approx(speed * 16 / 48, rel=0.08), "a larger picture of the same thing"


def test_what_stands_still_has_no_speed():
    assert pixel_speed(waves(0.0), 16) == 0


def test_flicker_and_noise_are_not_motion():
    """A difference of frames takes a change of light for motion and noise, too."""
    from cac_align.flow_grpo.judging.canaries import motion_energy

    still = waves(0.0)
    flicker = np.clip(still.astype(int) + np.array([0, 25, 0, 25, 0, 25])[:, None, None, None], 0, 255).astype(np.uint8)
    moving = waves(1.0)
    assert motion_energy(flicker) > 0.5 * motion_energy(moving)
    assert pixel_speed(flicker, 16) < 0.25 * pixel_speed(moving, 16)
    noise = np.random.default_rng(0).normal(0, 2, moving.shape)
    assert pixel_speed((still + noise).clip(0, 255).astype(np.uint8), 16) < 0.25 * pixel_speed(moving, 16)


def test_a_cut_is_not_motion():
    cut = waves(0.0)
    cut[3:] = 255 - cut[3:]
    assert pixel_speed(cut, 16) == 0


def test_it_orders_the_worlds_videos_as_the_tracker_does():
    """Two measures that share no code agree about which of many videos is faster."""
    from scipy.stats import spearmanr

    videos = [make_video(seed, num_frames=draws(81, 17))[0] for seed in range(draws(20, 12))]
    found = spearmanr([pixel_speed(v, 16) for v in videos], [tracked_motion(v, 16) for v in videos]).statistic
    assert found > 0.6


# --- the reward -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["pixels", "tracked"])
def test_reward_is_speed_over_the_limit_clipped(measure):
    video = make_video(3)[0]
    speed = MotionReward(measure=measure).speed(video, 16)
    assert speed > 0
    slow, fast = MotionReward(measure=measure, full=speed * 2), MotionReward(measure=measure, full=speed / 2)
    still = np.repeat(video[:1], 5, 0)
    answer = slow.evaluate([video, still], ["x", "y"], fps=16)
    assert answer.scores == [pytest.approx(0.5), 0.0]
    assert answer.parts == {"speed": [pytest.approx(speed), 0.0], "saturated": [0.0, 0.0]}
    assert fast.evaluate([video], fps=16).parts["saturated"] == [1.0] and fast([video], fps=16) == [1.0]


def test_the_share_at_the_limit_is_logged_by_trainer_and_evaluation(caplog):
    from cac_align.flow_grpo.evaluation import summarise

    videos = [waves(0.1), waves(1.0), waves(1.0)]
    reward = CompositeReward({"motion": MotionReward(full=0.2)})
    answer = reward.evaluate(videos, None, fps=16)
    rows = [
        ScoreRow(0, k, answer.scores[k], None, {name: values[k] for name, values in answer.parts.items()})
        for k in range(3)
    ]
    numbers = experience_numbers(rows, compute_advantages(answer.scores, [0, 0, 0]))
    assert numbers["part/motion/saturated"] == pytest.approx(2 / 3)
    found = summarise({k: {"reward": 0.5, **{f"part/{n}": v for n, v in r.parts.items()}} for k, r in enumerate(rows)})
    assert found["part/motion/saturated"] == found["saturated"] == pytest.approx(2 / 3)
    warn_of_limits({**numbers, "part/motion/saturated": 0.5})
    assert not caplog.records
    warn_of_limits(numbers)
    assert "part/motion/saturated: 67 % of the step's videos are at the limit" in caplog.text


def test_settings_and_files():
    reward = build_reward([{"reward": "motion", "options": {"full": 0.3, "measure": "tracked"}}])
    assert reward.rewards[0].describe() == {"measure": "tracked", "full": 0.3}
    copy = pickle.loads(pickle.dumps(reward.rewards[0]))
    assert repr(copy) == "MotionReward(full=0.3, measure='tracked')"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"full": 0}, "full=0 must be a finite number above 0"),
        ({"measure": "raf"}, "measure='raf' must be one of pixels, tracked, raft"),
        ({"measure": "raft"}, "weights=None and measure='raft' do not fit"),
        ({"weights": "raft.pth"}, "weights='raft.pth' and measure='pixels' do not fit"),
    ],
)
def test_wrong_options(wrong, said):
    with pytest.raises(ValueError, match=said):
        MotionReward(**wrong)


# --- RAFT from a file -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raft_file(tmp_path_factory):
    """Random weights in the layout of torchvision's ``raft_small``."""
    import torch
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_raft_is_torchvisions_own_answer(raft_file):
    import torch
    from torchvision.models.optical_flow import raft_small

    frames = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    reward = MotionReward(measure="raft", weights=str(raft_file), device="cpu")
    reward.check_ready()
    network = raft_small(weights=None).eval()
    network.load_state_dict(torch.load(raft_file))
    first, second = (torch.from_numpy(f).permute(2, 0, 1)[None].float() / 127.5 - 1 for f in frames)
    with torch.no_grad():
        flow = network(first, second, num_flow_updates=20)[-1][0]
    lengths = flow.norm(dim=0).flatten().sort().values[-int(0.05 * 128 * 128) :]
    assert reward.speed(frames, 16) == pytest.approx(float(lengths.mean()) * 16 / 128, rel=1e-4)
    assert "raft" not in pickle.loads(pickle.dumps(reward)).__dict__, "a worker loads its own"
    assert set(reward.describe()) == {"measure", "full", "weights"}
    with pytest.raises(ValueError, match="frames of 64x96 are too small for RAFT, which needs 128"):
        reward.speed(np.zeros((3, 64, 96, 3), np.uint8), 16)


def test_files_that_are_no_raft(raft_file, tmp_path):
    import torch

    with pytest.raises(ValueError, match=r"there is no such file"):
        MotionReward(measure="raft", weights="none.pth").check_ready()
    torch.save({"feature_encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="holds the weights of another model"):
        MotionReward(measure="raft", weights=str(tmp_path / "other.pth"), device="cpu").make_ready()


# --- single frames ----------------------------------------------------------------------------------------------------


def test_single_frames_are_refused_before_anything_is_drawn(wan_pipe, tmp_path, monkeypatch):
    from tests.cac_align.flow_grpo.runs import build, shallow_pipe

    drawn = []
    monkeypatch.setattr(type(wan_pipe), "__call__", lambda *args, **kwargs: drawn.append(kwargs))
    said = "reward 'motion' needs videos of at least 2 frames, and num_frames=1"
    for reward in (MotionReward(), CompositeReward([MotionReward(), lambda v, p=None, *, fps, **k: [0.5] * len(v)])):
        with pytest.raises(RewardError, match=said):
            check_num_frames(reward, 1)
        with pytest.raises(RewardError, match=said):
            best_of_n(wan_pipe, "x", reward=reward, num_frames=1, height=16, width=16)
    trainer = build(tmp_path, pipe=shallow_pipe(), rewards=["motion"], num_frames=1)
    with pytest.raises(RewardError, match=said):
        trainer.train()
    assert drawn == []
    with pytest.raises(ValueError, match="a video of 1 frame does not move"):
        MotionReward()([np.zeros((1, 16, 16, 3), np.uint8)], fps=16)
