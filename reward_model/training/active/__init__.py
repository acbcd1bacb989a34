"""Training of a judge that looks itself: a cold start on scripted episodes, then rounds of interactive preference
optimisation (iDPO; after Anom-pi, arXiv 2607.00622).

Reading order: ``maths`` (the loss), ``videos``, ``episode_rows`` (episodes as token ids), ``rollouts`` (drawn by the
judge), ``cold_start`` (written by a script), ``pairs`` (which is better), ``experience`` and ``rounds`` (a round, and
its file), ``losses``, then ``config``, ``setup``, the ``trainer``, and the ``card``.
"""
