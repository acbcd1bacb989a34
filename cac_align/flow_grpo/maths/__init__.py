"""The equations of Flow-GRPO as pure functions.

``kernels`` (a stochastic step and its log-prob), ``schedule`` (its sigmas), ``sampling`` (what is drawn where),
``advantages`` and ``credit`` (weights), ``objectives`` (losses), ``preference`` (losses on pairs).
"""
