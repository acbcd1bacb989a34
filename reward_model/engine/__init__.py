"""Shared parts of all trainings.

``settings`` from YAML and the command line, ``processes`` and the numbers they share,
``checkpoints``, ``guards`` that stop a run, ``interrupts`` that let it finish its step, ``run_log`` and
``video_summary`` for what it shows, and the optimiser ``muon``.
"""
