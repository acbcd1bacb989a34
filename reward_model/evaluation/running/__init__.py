"""An evaluation: ``contestants`` on benches give a ``row`` per video, kept in the ``store``; ``measure`` turns rows
into a ``result``. ``runner`` does it for one judge, ``suite`` for many; ``baselines`` and ``choice`` say what to beat.
"""
