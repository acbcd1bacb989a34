"""Settings: what is refused, with which words; what may change in a resumed run; rewards by name."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import build_reward, read_specs
from cac_align.flow_grpo.maths.kernels import KERNELS
from cac_align.flow_grpo.older_runs import as_meant
from reward_model.terminal.described import choices_of, settings_of
from tests.cac_align.flow_grpo.toy_rewards import brightness
from tests.campaigns import slow_but

ROOT = Path(__file__).resolve().parents[3]

BRIGHT = "tests.cac_align.flow_grpo.toy_rewards:brightness"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kernel": "sde"}, "kernel='sde' must be one of 'wan_linear', 'flow', 'dance', 'cps', 'precise', 'ode'"),
        ({"noise_level": None}, "kernel='flow' needs a noise_level"),
        ({"noise_level": 0.0}, "leaves no stochastic step"),
        ({"kernel": "wan_linear"}, "noise_level=0.3 has no effect on kernel 'wan_linear'; set it to null"),
        ({"kernel": "cps", "noise_level": 1.5}, "noise_level=1.5"),
        ({"batch": "4x1"}, "a group of one has no advantage"),
        ({"batch": "32"}, "batch='32' must be PROMPTSxVIDEOS"),
        ({"window_start": 18}, "a window of 2 steps does not fit"),
        ({"window_stop": 20}, "window stop=20 lies outside the 19 stochastic steps"),
        ({"window_mode": "some"}, "window_mode='some' must be one of 'all', 'fixed'"),
        ({"nft_sigmas": "even"}, "nft_sigmas='even' must be one of 'schedule', 'uniform'"),
        ({"nft_decay": True}, "nft_decay=True must be one of 0, 1, 2"),
        ({"report_to": "mlflow"}, "report_to=\\['mlflow'\\] must be a list of tensorboard, wandb, trackio, none"),
        ({"report_to": ["none", "wandb"]}, "'none' stands alone"),
        ({"num_generations": 8, "batch": "2x4"}, "num_generations=8 does not fit batch='2x4'.*set batch: 2x8"),
        ({"save_steps": 5, "save_every": 6}, "are one setting; give one of them"),
        ({"bf16": True}, "unknown setting 'bf16'; set mixed_precision: bf16"),
        ({"groups_per_step": 4}, "unknown setting 'groups_per_step'; set batch: PROMPTSxVIDEOS"),
        ({"objective": "ppo"}, "objective='ppo' must be one of 'grpo', 'guard', 'dppo', 'nft', 'rvm'"),
        ({"objective": "nft"}, "objective='nft' and kernel='flow' do not fit"),
        (
            {"objective": "nft", "kernel": "ode", "noise_level": None, "same_initial_noise": True},
            "same_initial_noise=True does not fit objective 'nft'",
        ),
        ({"kernel": "ode", "noise_level": None}, "kernel='ode' do not fit"),
        (
            {"objective": "dppo", "clip_range": 0.01},
            "clip_range=0.01 does not fit objective 'dppo': read with objective grpo or guard only; choose one of "
            "them, or set clip_range: 0.001",
        ),
        (
            {"nft_beta": 0.5, "nft_decay": 2},
            "nft_beta=0.5, nft_decay=2 do not fit objective 'grpo': read with objective nft only; choose that, or set "
            "nft_beta: 1.0, nft_decay: 1",
        ),
        (
            {"log_prob_constants": False},
            "log_prob_constants=False does not fit kernel 'flow': read with kernel cps only",
        ),
        (
            {"kernel": "cps", "log_prob_constants": False, "step_weighting": "inv_c"},
            "step_weighting='inv_c' does not fit log_prob_constants False: read with log_prob_constants true only",
        ),
        ({"shared_prefix": "on"}, "shared_prefix='on' must be one of 'exact', 'single', 'off'"),
        ({"num_frames": 80}, "num_frames must be 1 \\+ a multiple of 4"),
        ({"height": 100}, "multiples of 16"),
        ({"train_batch_size": 2, "sample_batch_size": 3}, "train_batch_size=2 must divide sample_batch_size=3"),
        ({"num_minibatches": 5}, "num_minibatches=5 must divide the 32 samples"),
        ({"learning_rate": -1e-4}, "learning_rate=-0.0001 must be a finite number above 0"),
        ({"beta": -1}, "beta=-1.0 must be a number of at least 0; 0 turns it off"),
        ({"clip_range": 1.5}, "clip_range=1.5 must be a number above 0 and below 1"),
        ({"credit_floor": 2.0}, "credit_floor=2.0 must be a number of at least 0 and at most 1"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must be a number of at least 0 and below 1; 0 keeps no average"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 must be a number of at least 1; 1 turns guidance off"),
        ({"localised_credit": "yes"}, "localised_credit='yes' must be true or false"),
        ({"max_steps": 2.5}, "max_steps=2.5 must be a whole number of at least 1"),
        ({"lora_targets": "to_q"}, "lora_targets='to_q' must be a list of texts"),
        ({"revision": 20261128}, "revision=20261128 must be a text .in YAML in quotes.*, or null"),
        ({"flow_shift": "three"}, "flow_shift='three' must be a number, or null"),
        ({"flow_shift": float("nan")}, "flow_shift=nan must be a number, or null"),
        ({"eval_num_inference_steps": 4.0}, "must be a whole number of at least 0, or null"),
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


#: For each setting that some objectives do not read, a value that is not its default.
OTHER = {
    "clip_range": 0.01,
    "log_prob_constants": False,
    "max_divergence": 0.1,
    "step_weighting": "inv_c",
    "kl_space": "mean",
    "nft_beta": 0.5,
    "nft_num_sigmas": 3,
    "nft_sigmas": "uniform",
    "nft_decay": 2,
    "rvm_scale": 0.2,
    "rvm_num_sigmas": 3,
    "rvm_positive_updates": 1,
    "window_mode": "all",
    "window_size": 1,
    "window_start": 1,
    "window_stop": 5,
    "window_shift_every": 2,
    "window_stride": 2,
    "timestep_fraction": 0.5,
    "last_step_noise": True,
    "noise_floor": "refuse",
}


@pytest.mark.parametrize("objective", slow_but(["grpo", "guard", "dppo", "nft", "rvm"], "grpo", "nft"))
def test_an_objective_takes_its_own_options_and_refuses_those_of_others(objective):
    whens = {s.name: s.metadata["when"] for s in settings_of(FlowGRPOConfig)}
    marked = {name: when["objective"] for name, when in whens.items() if "objective" in when}
    assert marked.keys() == OTHER.keys()
    base = {"objective": objective, "kernel": "cps", "noise_level": 0.5}
    if objective in ("nft", "rvm"):
        base |= {"kernel": "ode", "noise_level": None}
    whole = FlowGRPOConfig(**base).to_dict()
    assert FlowGRPOConfig.from_dict(whole).to_dict() == whole, "a file of all settings opens"
    for name, value in OTHER.items():
        given = {**base, name: value}
        if objective in marked[name]:
            assert getattr(FlowGRPOConfig.from_dict(given), name) == value
            continue
        with pytest.raises(ValueError, match=f"{name}=.* does not fit objective '{objective}'.*, or set {name}: "):
            FlowGRPOConfig.from_dict(given)
        assert FlowGRPOConfig.from_dict(as_meant(given)).objective == objective, "a run of before is read"


def test_yaml_reads_off_and_no_as_false():
    given = yaml.safe_load("{noise_floor: off, shared_prefix: off, mixed_precision: no}")
    config = FlowGRPOConfig.from_dict(given)
    assert (config.noise_floor, config.shared_prefix, config.mixed_precision) == ("off", "off", "no")
    with pytest.raises(ValueError, match="window_mode=False must be one of"):
        FlowGRPOConfig.from_dict({"window_mode": False})


def test_batch_is_one_knob():
    config = FlowGRPOConfig(batch="3 x 8")
    assert (config.groups_per_step, config.num_generations, config.samples_per_step) == (3, 8, 24)


def test_names_of_other_trainers_are_understood():
    config = FlowGRPOConfig.from_dict({"num_generations": 8, "save_steps": 3, "eval_steps": 7, "epsilon": 0.2})
    assert (config.batch, config.save_every, config.eval_every, config.clip_range) == ("2x8", 3, 7, 0.2)
    assert FlowGRPOConfig.from_dict({"num_generations": 4, "batch": "6x4"}).batch == "6x4"
    assert FlowGRPOConfig.from_dict({"report_to": "wandb"}).report_to == ["wandb"]
    with pytest.raises(ValueError, match="settings must be a mapping of names to values, got list"):
        FlowGRPOConfig.from_dict(["batch"])


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
    text, told = "\n" + FlowGRPOConfig.help_text(), FlowGRPOConfig.__doc__
    settings = settings_of(FlowGRPOConfig)
    assert [s.name for s in settings] == list(FlowGRPOConfig().to_dict())
    for s in settings:
        assert len(s.text) > 6 and f"\n{s.name} = {s.default!r}" in text and f"    {s.name} = " in told, s.name
    by_name = {s.name: s for s in settings}
    assert by_name["kernel"].kind == "wan_linear, flow, dance, cps, precise, ode"
    assert by_name["kernel"].group == "rollouts" and by_name["flow_shift"].kind == "number or null"
    assert by_name["clip_range"].kind == "number above 0 and below 1" and "number above 0 and below 1" in text


def test_a_type_checker_knows_the_choices():
    """Fields with a choice are Literal, so that mypy refuses another word; the kernels are those that exist."""
    choices = choices_of(FlowGRPOConfig)
    assert choices["kernel"] == KERNELS and choices["objective"] == ("grpo", "guard", "dppo", "nft", "rvm")
    assert {"mixed_precision", "window_mode", "step_weighting", "reward_mode", "noise_floor"} <= set(choices)


@pytest.mark.slow
def test_mypy_refuses_a_wrong_kernel(tmp_path):
    pytest.importorskip("mypy")
    code = tmp_path / "mine.py"
    code.write_text(
        "from cac_align import FlowGRPOConfig\nFlowGRPOConfig(kernel='sde')\nFlowGRPOConfig(kernel='cps')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(code)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'mine.py:2: error: Argument "kernel"' in said.stdout and "mine.py:3" not in said.stdout


def test_older_settings_are_read_as_they_were_meant():
    """A run that named no readout was judged before the reasoning; nft drew its noise levels uniformly."""
    cac = {"reward": "cac", "options": {"model": "m"}}
    old = as_meant({"objective": "nft", "rewards": ["cac", cac, "unified"]})
    direct = {"reward": "cac", "options": {"readout": "direct"}}
    assert old["rewards"] == [direct, {"reward": "cac", "options": {"model": "m", "readout": "direct"}}, "unified"]
    assert old["nft_sigmas"] == "uniform" and as_meant({"objective": "grpo"})["nft_sigmas"] == "schedule"
    new = FlowGRPOConfig(rewards=["cac"]).to_dict()
    assert as_meant(new) == new


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


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("model_revision", "revision", "main"),
        ("adam_epsilon", "adam_eps", 1e-7),
        ("lora_target_modules", "lora_targets", ["to_q"]),
        ("attn_implementation", "attention_backend", "native"),
    ],
)
def test_a_spelling_of_trl_that_holds_on_the_command_line_holds_in_a_file(theirs, ours, value):
    settings = FlowGRPOConfig.from_dict({theirs: value})
    assert (
        getattr(settings, ours)
        == getattr(FlowGRPOConfig.from_dict({ours: value}), ours)
        != getattr(FlowGRPOConfig(), ours)
    )
