"""Modules under the names they had before version 0.2: importing one still works, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Former name -> present name. Packages of a former module's name hand out that module's names themselves.
MOVED = {
    "cac_align.candidates": "cac_align.selection.candidates",
    "cac_align.evaluation": "cac_align.table2",
    "cac_align.evaluation.columns": "cac_align.table2.columns",
    "cac_align.evaluation.correlations": "cac_align.table2.correlations",
    "cac_align.evaluation.curves": "cac_align.table2.curves",
    "cac_align.evaluation.draws": "cac_align.table2.draws",
    "cac_align.evaluation.forecast": "cac_align.table2.forecast",
    "cac_align.evaluation.job": "cac_align.table2.job",
    "cac_align.evaluation.maths": "cac_align.table2.maths",
    "cac_align.evaluation.matrix": "cac_align.table2.matrix",
    "cac_align.evaluation.measures": "cac_align.table2.measures",
    "cac_align.evaluation.output": "cac_align.table2.output",
    "cac_align.evaluation.page": "cac_align.table2.page",
    "cac_align.evaluation.probe_table": "cac_align.probes.table",
    "cac_align.evaluation.probe_videos": "cac_align.probes.videos",
    "cac_align.evaluation.probes": "cac_align.probes.probes",
    "cac_align.evaluation.ratings": "cac_align.table2.ratings",
    "cac_align.evaluation.scores": "cac_align.table2.scores",
    "cac_align.evaluation.settings": "cac_align.table2.settings",
    "cac_align.evaluation.spread": "cac_align.table2.spread",
    "cac_align.evaluation.tables": "cac_align.table2.tables",
    "cac_align.evaluation.training": "cac_align.table2.training",
    "cac_align.evaluation.work": "cac_align.table2.work",
    "cac_align.files": "reward_model.files",
    "cac_align.flow_grpo.advantages": "cac_align.flow_grpo.maths.advantages",
    "cac_align.flow_grpo.base_scheduler": "cac_align.flow_grpo.maths.schedule",
    "cac_align.flow_grpo.canaries": "cac_align.flow_grpo.judging.canaries",
    "cac_align.flow_grpo.checkpoint": "cac_align.flow_grpo.learner.checkpoint",
    "cac_align.flow_grpo.checkpoint_checks": "cac_align.flow_grpo.learner.checkpoint_checks",
    "cac_align.flow_grpo.conditioning": "cac_align.flow_grpo.sampler.policy",
    "cac_align.flow_grpo.config_checks": "cac_align.flow_grpo.config",
    "cac_align.flow_grpo.credit": "cac_align.flow_grpo.maths.credit",
    "cac_align.flow_grpo.divergence": "cac_align.flow_grpo.maths.objectives",
    "cac_align.flow_grpo.embeddings": "cac_align.flow_grpo.sampler.embeddings",
    "cac_align.flow_grpo.experience": "cac_align.flow_grpo.learner.experience",
    "cac_align.flow_grpo.interrupts": "reward_model.engine.interrupts",
    "cac_align.flow_grpo.kernels": "cac_align.flow_grpo.maths.kernels",
    "cac_align.flow_grpo.lora": "cac_align.flow_grpo.learner.lora",
    "cac_align.flow_grpo.lora_files": "cac_align.flow_grpo.learner.lora_files",
    "cac_align.flow_grpo.nft": "cac_align.flow_grpo.learner.nft",
    "cac_align.flow_grpo.nft_replay": "cac_align.flow_grpo.learner.nft",
    "cac_align.flow_grpo.objectives": "cac_align.flow_grpo.maths.objectives",
    "cac_align.flow_grpo.pipeline": "cac_align.flow_grpo.sampler.pipeline",
    "cac_align.flow_grpo.policy": "cac_align.flow_grpo.sampler.policy",
    "cac_align.flow_grpo.processes": "cac_align.flow_grpo.learner.experience",
    "cac_align.flow_grpo.replay": "cac_align.flow_grpo.learner.replay",
    "cac_align.flow_grpo.reward_bus": "cac_align.flow_grpo.judging.reward_bus",
    "cac_align.flow_grpo.reward_specs": "cac_align.flow_grpo.judging.reward_specs",
    "cac_align.flow_grpo.rollout": "cac_align.flow_grpo.sampler.rollout",
    "cac_align.flow_grpo.sampling": "cac_align.flow_grpo.maths.sampling",
    "cac_align.flow_grpo.schedule": "cac_align.flow_grpo.maths.schedule",
    "cac_align.flow_grpo.scheduler": "cac_align.flow_grpo.sampler.scheduler",
    "cac_align.flow_grpo.seeds": "cac_align.flow_grpo.maths.sampling",
    "cac_align.flow_grpo.self_check": "cac_align.flow_grpo.learner.replay",
    "cac_align.flow_grpo.showing": "cac_align.flow_grpo.run_log",
    "cac_align.flow_grpo.trajectory": "cac_align.flow_grpo.sampler.trajectory",
    "cac_align.flow_grpo.windows": "cac_align.flow_grpo.maths.sampling",
    "cac_align.metrics.lossless": "reward_model.video.writing",
    "cac_align.rewards.inputs": "cac_align.rewards.model_reward",
    "cac_align.rewards.provenance": "cac_align.rewards.base",
    "cac_align.readout_note": "cac_align.report.view",
    "cac_align.rewards.source": "reward_model.backends.source",
    "cac_align.report.media": "reward_model.video.writing",
    "cac_align.report.save": "cac_align.selection.run_folder",
    "cac_align.rewards.order": "cac_align.rewards.base",
    "cac_align.run_folder": "cac_align.selection.run_folder",
    "reward_model.backends.thoughts": "reward_model.backends.local",
    "reward_model.command_parser": "reward_model.terminal.parser",
    "reward_model.data.agreement": "reward_model.statistics.agreement",
    "reward_model.data.corruptions.mp4": "reward_model.video.writing",
    "reward_model.data.probe": "reward_model.video.reading",
    "reward_model.described": "reward_model.terminal.described",
    "reward_model.devices": "reward_model.backends.devices",
    "reward_model.evaluation.ablation": "reward_model.evaluation.tables.ablation",
    "reward_model.evaluation.baselines": "reward_model.evaluation.running.baselines",
    "reward_model.evaluation.bench": "reward_model.evaluation.benches.bench",
    "reward_model.evaluation.bench_names": "reward_model.evaluation.benches.names",
    "reward_model.evaluation.calibration": "reward_model.evaluation.metrics.calibration",
    "reward_model.evaluation.class_tables": "reward_model.evaluation.tables.class_tables",
    "reward_model.evaluation.compare": "reward_model.evaluation.tables.compare",
    "reward_model.evaluation.contestants": "reward_model.evaluation.running.contestants",
    "reward_model.evaluation.hard_bench": "reward_model.evaluation.benches.hard",
    "reward_model.evaluation.intervals": "reward_model.statistics.intervals",
    "reward_model.evaluation.measure": "reward_model.evaluation.running.measure",
    "reward_model.evaluation.paired_tables": "reward_model.evaluation.tables.paired_tables",
    "reward_model.evaluation.paper_tables": "reward_model.evaluation.tables.paper_tables",
    "reward_model.evaluation.protocols.choice": "reward_model.evaluation.running.choice",
    "reward_model.evaluation.protocols.wording": "reward_model.unified.wording",
    "reward_model.evaluation.readouts": "reward_model.evaluation.tables.readouts",
    "reward_model.evaluation.record_bench": "reward_model.evaluation.benches.records",
    "reward_model.evaluation.reliability_plot": "reward_model.evaluation.tables.reliability_plot",
    "reward_model.evaluation.reports": "reward_model.evaluation.tables.reports",
    "reward_model.evaluation.result": "reward_model.evaluation.running.result",
    "reward_model.evaluation.row": "reward_model.evaluation.running.row",
    "reward_model.evaluation.runner": "reward_model.evaluation.running.runner",
    "reward_model.evaluation.significance": "reward_model.statistics.significance",
    "reward_model.evaluation.store": "reward_model.evaluation.running.store",
    "reward_model.evaluation.suite": "reward_model.evaluation.running.suite",
    "reward_model.evaluation.table": "reward_model.statistics.table",
    "reward_model.evaluation.tubes": "reward_model.evaluation.metrics.tubes",
    "reward_model.evaluation.unified_pairs": "reward_model.unified.pairs",
    "reward_model.evaluation.unified_protocols": "reward_model.unified.protocols",
    "reward_model.evaluation.unified_reward": "reward_model.unified.score",
    "reward_model.familiarity": "reward_model.domain",
    "reward_model.media": "reward_model.video",
    "reward_model.media.container": "reward_model.video.container",
    "reward_model.media.facts": "reward_model.video.reading",
    "reward_model.media.frames": "reward_model.video.clip",
    "reward_model.media.limits": "reward_model.video.container",
    "reward_model.media.pictures": "reward_model.video.reading",
    "reward_model.media.reading": "reward_model.video.reading",
    "reward_model.media.scan": "reward_model.video.container",
    "reward_model.media.timeline": "reward_model.video.reading",
    "reward_model.media.webp": "reward_model.video.reading",
    "reward_model.media.writing": "reward_model.video.writing",
    "reward_model.readout": "reward_model.turns",
    "reward_model.replaced_forward": "reward_model.engine.replaced_forward",
    "reward_model.secret": "reward_model.backends.secret",
    "reward_model.training.gradients": "reward_model.minis.gradients",
    "reward_model.training.grpo.head_scores": "reward_model.training.grpo.maths",
    "reward_model.training.grpo_batches": "reward_model.training.grpo.batches",
    "reward_model.training.grpo_card": "reward_model.training.grpo.card",
    "reward_model.training.grpo_config": "reward_model.training.grpo.config",
    "reward_model.training.grpo_log": "reward_model.training.grpo.log",
    "reward_model.training.grpo_math": "reward_model.training.grpo.maths",
    "reward_model.training.grpo_prepare": "reward_model.training.grpo.prepare",
    "reward_model.training.grpo_sampler": "reward_model.training.grpo.sampler",
    "reward_model.training.grpo_samples": "reward_model.training.grpo.videos",
    "reward_model.training.grpo_setup": "reward_model.training.grpo.setup",
    "reward_model.training.grpo_state": "reward_model.engine.checkpoints",
    "reward_model.training.grpo_trainer": "reward_model.training.grpo.trainer",
    "reward_model.training.guards": "reward_model.engine.guards",
    "reward_model.training.head_scores": "reward_model.training.grpo.maths",
    "reward_model.training.interrupts": "reward_model.engine.interrupts",
    "reward_model.training.left_out": "reward_model.training.sft.left_out",
    "reward_model.training.mini_batch": "reward_model.minis.collator",
    "reward_model.training.mini_config": "reward_model.minis.model",
    "reward_model.training.mini_data": "reward_model.minis.rows",
    "reward_model.training.mini_drift": "reward_model.minis.drift",
    "reward_model.training.mini_frames": "reward_model.minis.frames",
    "reward_model.training.mini_reading": "reward_model.minis.warm_up_reading",
    "reward_model.training.mini_splice": "reward_model.minis.splices",
    "reward_model.training.mini_tokenizer": "reward_model.minis.tokenizer",
    "reward_model.training.mini_warmup": "reward_model.minis.warm_up_vision",
    "reward_model.training.muon": "reward_model.engine.muon",
    "reward_model.training.policy_weights": "reward_model.training.grpo.policy_weights",
    "reward_model.training.processes": "reward_model.engine.processes",
    "reward_model.training.rollout_rows": "reward_model.training.grpo.rows",
    "reward_model.training.samples": "reward_model.training.sft.samples",
    "reward_model.training.settings_file": "reward_model.engine.settings",
    "reward_model.training.stage_config": "reward_model.training.sft.config",
    "reward_model.training.stage_data": "reward_model.training.sft.data",
    "reward_model.training.stage_run": "reward_model.training.sft.run",
    "reward_model.training.step_lines": "reward_model.engine.run_log",
    "reward_model.training.trl_names": "reward_model.engine.trl_names",
    "reward_model.training.two_turn": "reward_model.training.grpo.rollouts",
    "reward_model.training.video_summary": "reward_model.engine.video_summary",
    "reward_model.training.vllm_sampler": "reward_model.training.grpo.vllm_sampler",
    "reward_model.training.warmup_state": "reward_model.minis.warm_up_state",
    "reward_model.video.sampling": "reward_model.video.clip",
    "reward_model.turn_two": "reward_model.turns",
}


class _Former(Loader):
    """Makes a module that hands out the names of the one that took its place."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        place = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {place}", DeprecationWarning, stacklevel=2)
        present = importlib.import_module(place)

        def get(name: str) -> Any:
            return getattr(present, name)

        module.__getattr__ = get  # type: ignore[method-assign]
        module.__dir__ = lambda: dir(present)  # type: ignore[method-assign]
        module.__path__ = []


class _FormerNames(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Former(), is_package=True) if fullname in MOVED else None


def find_former_names() -> None:
    """Lets imports find modules under their former names; doing so twice is the same as once."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())
