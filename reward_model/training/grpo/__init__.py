"""Stage 3, two-turn GRPO (section 3.3 and appendix C).

Reading order: ``maths`` (log-probabilities, equations 8 to 11), ``videos``, ``rollouts`` (two turns as token ids),
``sampler`` and ``vllm_sampler`` (how they are drawn), ``rows`` (how they are read again), ``batches``, then ``config``,
``setup``, ``prepare`` and the ``trainer``; ``log`` and ``card`` show what came of it.
"""
