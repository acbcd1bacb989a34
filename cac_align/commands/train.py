"""``cac-align train STAGE`` and ``cac-align run RECIPE``: the recipes, from an installed package too.

A recipe is a script of ``recipes/``; it reads its own options, which are handed on as they are.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeCommand:
    """A command that runs one of several recipes.

    Attributes:
        NAME, HELP: as of the other commands.
        recipes: what a user types -> the script.
    """

    NAME: str
    HELP: str
    recipes: dict[str, str]
    #: The options belong to the recipe; the command has none of its own.
    PASSES_ON: bool = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe", choices=tuple(self.recipes), metavar="NAME", help=", ".join(self.recipes))
        parser.add_argument(
            "options", nargs=argparse.REMAINDER, metavar="...", help="the recipe's own options; NAME --help lists them"
        )

    def run(self, args: argparse.Namespace) -> int:
        from reward_model.shipped import recipes_folder

        script = recipes_folder() / self.recipes[args.recipe]
        before, sys.argv = sys.argv, [str(script), *args.options]
        try:
            runpy.run_path(str(script), run_name="__main__")  # ends by sys.exit with the recipe's code
        finally:
            sys.argv = before
        return 0


TRAIN = RecipeCommand(
    "train",
    "Train a judge (stage1, stage2, stage3), a referee of its evidence, or align a generator (flow-grpo, preference).",
    {
        "stage1": "stage1_warmup.py",
        "stage2": "stage2_sft.py",
        "stage3": "stage3_grpo.py",
        "referee": "train_referee.py",
        "flow-grpo": "flow_grpo.py",
        "preference": "preference.py",
    },
)
RUN = RecipeCommand(
    "run",
    "Run another recipe: tables, the second look, cascades, probes, referees, synthetic reasoning, the demo, minis.",
    {
        "best-of-n": "best_of_n.py",
        "evaluate-reward": "evaluate_reward.py",
        "evaluate-vbench": "evaluate_vbench.py",
        "table2": "table2.py",
        "second-look": "second_look.py",
        "false-alarms": "false_alarms.py",
        "reward-probes": "reward_probes.py",
        "check-referee": "check_referee.py",
        "cascade": "cascade.py",
        "demo-app": "demo_app.py",
        "synthesize-cot": "synthesize_cot.py",
        "build-minis": "build_minis.py",
    },
)
