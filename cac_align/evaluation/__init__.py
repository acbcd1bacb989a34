"""Has alignment helped? The paper's Table 2 for one's own models, correlations of rewards and metrics, and the probes
that show what a reward can be cheated with.

``settings`` reads a table's configuration; ``training``, ``draws`` and ``scores`` are its work, in units that ``work``
shares out between processes; ``maths`` has the intervals; ``tables``, ``correlations``, ``curves`` and ``page`` write
what came of it. ``probes`` and ``probe_table`` stand alone.
"""
