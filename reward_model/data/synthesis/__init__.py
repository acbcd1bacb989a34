"""Reasoning written by a teacher and verified against annotations: generate, verify, five rounds (section 3.1)."""

from reward_model.data.synthesis.accounting import account, to_markdown
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.form_check import LEAK_PHRASES, find_leak, frame_fault
from reward_model.data.synthesis.ledger import Ledger
from reward_model.data.synthesis.ledger_header import LedgerError
from reward_model.data.synthesis.output import write_outputs
from reward_model.data.synthesis.rounds import Outcome
from reward_model.data.synthesis.rule_check import boundary_check, rule_check
from reward_model.data.synthesis.run import CostEstimate, Synthesis, estimate, synthesize
from reward_model.data.synthesis.single_frame import single_frame_cot
from reward_model.data.synthesis.tally import Price, Tally
from reward_model.data.synthesis.tasks import Task, plan
from reward_model.lazy import former_names

__all__ = [
    "LEAK_PHRASES",
    "AskConfig",
    "CostEstimate",
    "Ledger",
    "LedgerError",
    "Outcome",
    "Price",
    "RuleConfig",
    "Synthesis",
    "Tally",
    "Task",
    "account",
    "boundary_check",
    "estimate",
    "find_leak",
    "frame_fault",
    "plan",
    "rule_check",
    "single_frame_cot",
    "synthesize",
    "to_markdown",
    "write_outputs",
]

__getattr__ = former_names(__name__, {"Estimate": "CostEstimate"})
