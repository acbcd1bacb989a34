"""Every settings class refuses what it refused when its rules stood in tables beside the fields, and takes the rest.

``settings_rules.json`` was recorded before the rules moved into the fields: for each field and probe, whether the class
took it. ``python -m tests.test_settings_rules FILE`` records the present code. Since then values of another type than
the field's are refused throughout, a number that is not a number too. Settings that came later are not in it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.table2.settings import TableSettings
from reward_model.backends.retrying import Backoff
from reward_model.config import JudgeConfig
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.noise import Noise
from reward_model.data.views import ViewOptions
from reward_model.evaluation.protocols.thinker import FrameSelection
from reward_model.terminal.described import idle_settings
from reward_model.training.grpo.config import GrpoConfig

RECORD = Path(__file__).with_name("settings_rules.json")
WORDS = [
    "none",
    "no",
    "bf16",
    "fp16",
    "base",
    "euler",
    "all",
    "fixed",
    "random",
    "progressive",
    "grpo",
    "guard",
    "dppo",
    "nft",
    "inv_c",
    "tempflow",
    "velocity",
    "mean",
    "schedule",
    "uniform",
    "group",
    "global",
    "scores",
    "advantages",
    "drop",
    "raise",
    "sync",
    "thread",
    "process",
    "off",
    "warn",
    "refuse",
    "batch",
    "scale_advantage",
    "mean_only",
    "fresh",
    "chat",
    "clip_only",
    "hull",
    "per_window",
    "both",
    "turnwise",
    "pred",
    "named",
    "gt",
    "paper",
    "direct",
    "log_odds",
    "joint",
    "final",
    "half",
    "tensorboard",
    "wandb",
    "ode",
    "cps",
    "wan_linear",
    "motion_energy",
    "2x16",
    "1e-4",
    "cac",
]
NUMBERS = [-1, 0, 1, 2, 3, 16, 81, 20_000, -0.5, 0.0, 0.3, 1.0, 1.5, 5.0, 2e6, math.inf, -math.inf, math.nan]
LISTS = [[], ["x"], [""], [1], [0, 1], [0, 0], [True], ["cac"], ["tensorboard"], ["none", "wandb"], ["paper", "direct"]]
PROBES: list[Any] = [None, True, False, *NUMBERS, "", "x", *WORDS, *LISTS, {}, {"x": 1}]

NFT = {"objective": "nft", "kernel": "ode", "noise_level": None}
TABLE = {
    "output_dir": "out",
    "flow_grpo": "flow.yaml",
    "rows": [{"name": "base"}],
    "rewards": ["cac"],
    "columns": ["motion_energy"],
    "eval_prompts": "eval.txt",
}
CASES: dict[str, tuple[type, Mapping[str, Any], Callable[..., Any]]] = {
    "AskConfig": (AskConfig, {}, AskConfig),
    "RuleConfig": (RuleConfig, {}, RuleConfig),
    "FrameSelection": (FrameSelection, {}, FrameSelection),
    "Noise": (Noise, {}, Noise),
    "Backoff": (Backoff, {}, Backoff),
    "ViewOptions": (ViewOptions, {}, ViewOptions),
    "FlowGRPOConfig": (FlowGRPOConfig, {}, FlowGRPOConfig),
    "FlowGRPOConfig, nft": (FlowGRPOConfig, NFT, FlowGRPOConfig),
    "FlowGRPOConfig.from_dict": (FlowGRPOConfig, {}, lambda **given: FlowGRPOConfig.from_dict(given)),
    "GrpoConfig": (GrpoConfig, {}, GrpoConfig),
    "GrpoConfig.from_dict": (GrpoConfig, {}, lambda **given: GrpoConfig.from_dict(given)),
    "TableSettings": (TableSettings, TABLE, TableSettings),
    "JudgeConfig": (JudgeConfig, {}, JudgeConfig),
}


#: Taken now and refused before: YAML reads 1e-4 as text, off and no as false.
LOOSER = {
    ("GrpoConfig.from_dict", "epsilon_high", "1e-4"),
    ("FlowGRPOConfig.from_dict", "noise_floor", False),
    ("FlowGRPOConfig.from_dict", "mixed_precision", False),
}
#: Settings of whole numbers that had no lower bound, or none where the objective does not read them. The rewards that
#: are watched were read later.
BOUNDED = (
    "eval_num_inference_steps",
    "eval_seed",
    "window_size",
    "window_start",
    "window_shift_every",
    "window_stride",
)
#: Refused now where the setting is given, and before where it was used.
EARLIER = {("AskConfig", "frame_size"), ("AskConfig", "top_p")}
TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "None": type(None)}


def takes(case: str, name: str, probe: Any) -> bool:
    _, base, make = CASES[case]
    try:
        make(**{**base, name: probe})
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError):
        return False
    return True


def of_type(annotation: str, probe: Any) -> bool:
    """Whether a probe is of the type a field is declared with, choices apart."""
    if annotation.startswith(("list", "Sequence", "tuple")):
        return isinstance(probe, list) and ("str" not in annotation or all(isinstance(e, str) for e in probe))
    if annotation.startswith("Mapping"):
        return isinstance(probe, dict)
    if isinstance(probe, bool):
        return "bool" in annotation
    if annotation.startswith(("Literal[0", "Literal[1")):
        return isinstance(probe, int)
    return not (isinstance(probe, float) and math.isnan(probe)) and any(
        isinstance(probe, TYPES.get(part, object)) for part in annotation.split(" | ")
    )


def recorded(case: str) -> list[Field[Any]]:
    """The fields that there were when the record was made; of later ones no former rule is known."""
    record = json.loads(RECORD.read_text())[case]
    found = [f for f in fields(CASES[case][0]) if f.name in record]
    assert len(found) > len(record) / 2
    return found


def check(case: str, *, every: int) -> int:
    """Compares with the record, for each field another share of the probes; returns how many were tried."""
    record, tried = json.loads(RECORD.read_text())[case], 0
    for index, field in enumerate(recorded(case)):
        for probe, was in list(zip(PROBES, record[field.name], strict=True))[index % every :: every]:
            now, where, tried = takes(case, field.name, probe), f"{case}: {field.name}={probe!r}", tried + 1
            if was == "0":
                assert not now or (case, field.name, probe) in LOOSER, f"{where} was refused"
            elif not now and of_type(str(field.type), probe):
                known = field.name == "watch" or (field.name in BOUNDED and probe < 1)
                known |= bool(idle_settings(CASES[case][0], {**CASES[case][1], field.name: probe}))  # had no effect
                assert known or (case, field.name) in EARLIER, f"{where} was taken"
    return tried


@pytest.mark.parametrize("case", [case for case in CASES if case.isidentifier()])
def test_what_was_refused_is_refused_and_what_was_taken_is_taken(case):
    assert check(case, every=8) == pytest.approx(len(recorded(case)) * len(PROBES) / 8, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_same_of_every_probe(case):
    assert check(case, every=1) == len(recorded(case)) * len(PROBES)


if __name__ == "__main__":
    made = {
        case: {f.name: "".join("01"[takes(case, f.name, p)] for p in PROBES) for f in fields(CASES[case][0])}
        for case in CASES
    }
    Path(sys.argv[1]).write_text(json.dumps(made, indent=1) + "\n")
