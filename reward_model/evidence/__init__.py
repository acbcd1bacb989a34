"""Evidence of turn two, scored by a referee (SER, arXiv 2606.24726): a reward that needs no true box.

Reading order: ``claims`` (what an answer claims), ``score`` (R_SER and its penalties), ``referee`` (the question, the
opinion, referees that go by the truth), ``model_referee`` (a checkpoint or a server), ``cache``, ``answer`` (a whole
answer's evidence), ``opening`` (from settings to a referee).
"""
