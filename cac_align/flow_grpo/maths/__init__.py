"""The equations of Flow-GRPO as pure functions: ``kernels`` (a stochastic step and its log-prob), ``schedule``,
``windows``, ``sampling`` and ``seeds`` (what is drawn where), ``advantages`` and ``credit`` (weights), ``objectives``,
``divergence`` and ``nft`` (losses).
"""
