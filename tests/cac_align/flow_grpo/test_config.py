"""Settings: what is refused, with which words; what may change in a resumed run; rewards by name."""

import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.reward_specs import build_reward, read_specs
from tests.cac_align.flow_grpo.toy_rewards import brightness

BRIGHT = "tests.cac_align.flow_grpo.toy_rewards:brightness"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kernel": "sde"}, "kernel='sde' is unknown; choose one of"),
        ({"noise_level": None}, "kernel='flow' needs a noise_level"),
        ({"noise_level": 0.0}, "leaves no stochastic step"),
        ({"kernel": "wan_linear"}, "noise_level=0.3 has no effect on kernel 'wan_linear'; set it to null"),
        ({"kernel": "cps", "noise_level": 1.5}, "noise_level=1.5"),
        ({"batch": "4x1"}, "a group of one has no advantage"),
        ({"batch": "32"}, "batch='32' must be PROMPTSxVIDEOS"),
        ({"window_start": 18}, "a window of 2 steps does not fit"),
        ({"window_stop": 20}, "window stop=20 lies outside the 19 stochastic steps"),
        ({"window_mode": "some"}, "window mode 'some'"),
        ({"objective": "ppo"}, "objective='ppo' must be one of 'grpo', 'guard', 'dppo', 'nft'"),
        ({"objective": "nft"}, "objective='nft' and kernel='flow' do not fit"),
        (
            {"objective": "nft", "kernel": "ode", "noise_level": None, "same_initial_noise": True},
            "same_initial_noise=True does not fit objective 'nft'",
        ),
        ({"kernel": "ode", "noise_level": None}, "kernel='ode' do not fit"),
        ({"num_frames": 80}, "num_frames must be 1 \\+ a multiple of 4"),
        ({"height": 100}, "multiples of 16"),
        ({"train_batch_size": 2, "sample_batch_size": 3}, "train_batch_size=2 must divide sample_batch_size=3"),
        ({"num_minibatches": 5}, "num_minibatches=5 must divide the 32 samples"),
        ({"learning_rate": -1e-4}, "learning_rate=-0.0001 must be a finite number above 0"),
        ({"beta": -1}, "beta=-1.0 must not be negative"),
        ({"clip_range": 1.5}, "clip_range=1.5 must lie between 0 and 1"),
        ({"credit_floor": 2.0}, "credit_floor=2.0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5"),
        ({"localised_credit": "yes"}, "localised_credit='yes' must be true or false"),
        ({"max_steps": 2.5}, "max_steps=2.5 must be a whole number"),
        ({"lora_targets": []}, "lora_targets=\\[\\] must name"),
        ({"learning_rat": 1e-4}, "unknown setting 'learning_rat'; did you mean learning_rate"),
        ({"rewards": []}, "rewards=\\[\\] must be a list of at least one"),
        ({"rewards": ["cacc"]}, "reward 'cacc' is unknown; choose cac, unified"),
        ({"rewards": ["cac", "cac"]}, "two rewards are named 'cac'"),
        ({"rewards": [{"reward": "cac", "weight": -1}]}, "weight=-1 must be a finite number of 0 or more"),
        ({"rewards": [{"reward": "cac", "weight": 0}]}, "have no weight above 0"),
        ({"rewards": [{"reward": "cac", "wieght": 1}]}, "must be a name, or a mapping of reward, weight"),
        ({"reward_combination": "advantages", "reward_on_failure": "drop"}, "does not fit"),
    ],
)
def test_bad_settings_are_named_with_the_remedy(wrong, said):
    with pytest.raises(ValueError, match=said):
        FlowGRPOConfig.from_dict(wrong)


def test_batch_is_one_knob():
    config = FlowGRPOConfig(batch="3 x 8")
    assert (config.groups_per_step, config.num_generations, config.samples_per_step) == (3, 8, 24)


def test_yaml_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-4\nguidance_scale: 5\nbatch: 4x8\nnoise_level: 1\n")
    config = FlowGRPOConfig.from_yaml(path, max_steps=7)
    assert (config.learning_rate, config.guidance_scale, config.max_steps) == (1e-4, 5.0, 7)
    assert isinstance(config.guidance_scale, float) and config.noise_level == 1.0
    assert FlowGRPOConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="cannot read the settings"):
        FlowGRPOConfig.from_yaml(tmp_path / "none.yaml")


def test_what_makes_another_run():
    """A setting that changes the numbers must stop a resume; one that does not must not."""
    identity = FlowGRPOConfig().identity()
    for name in (
        "noise_level",
        "batch",
        "sample_batch_size",
        "lora_r",
        "learning_rate",
        "objective",
        "rewards",
        "seed",
    ):
        assert name in identity
    for name in ("output_dir", "max_steps", "save_every", "reward_mode", "gradient_checkpointing", "wandb_project"):
        assert name not in identity


def test_every_setting_is_explained():
    text = "\n" + FlowGRPOConfig.help_text()
    assert all(f"\n{name} = " in text for name in FlowGRPOConfig().to_dict())


def test_rewards_by_name_and_weight():
    reward = build_reward([BRIGHT, {"reward": BRIGHT, "name": "again", "weight": 3}])
    import numpy as np

    video = np.full((2, 4, 4, 3), 51, np.uint8)
    answer = reward.evaluate([video], ["x"], fps=16)
    assert answer.scores == pytest.approx([0.2]) and answer.parts == {"brightness": [0.2], "again": [0.2]}
    assert brightness([video], fps=16) == [0.2] and reward.weights == [1.0, 3.0]
    spec = read_specs([{"reward": "cac_align:CaCReward", "options": {"readout": "paper"}}])[0]
    assert spec.name == "CaCReward" and repr(spec.build()).endswith("readout='paper')")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no.such.module:thing", "cannot be imported"),
        ("cac_align:Nothing", "cannot be imported"),
        ({"reward": BRIGHT, "options": {"a": 1}}, "is a function and takes no options"),
        ({"reward": "cac_align:UnifiedReward", "options": {"colour": "red"}}, "refuses its options"),
    ],
)
def test_rewards_that_cannot_be_built(entry, said):
    with pytest.raises(ValueError, match=said):
        build_reward([entry])
