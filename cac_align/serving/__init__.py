"""Any reward behind HTTP, for trainers and people on other machines (``cac-align serve``).

Reading order: ``settings`` (what a server allows), ``messages`` (requests), ``sources`` (a video of a request, opened;
``addresses`` for those at URLs), ``batches`` (requests of all clients, judged together), ``app`` (routes, limits, who
may ask), ``counters`` (``/metrics``), ``listening`` (the socket). The client is :mod:`cac_align.rewards.remote`.
"""
