"""Active evidence: a judge that asks for the frames it needs (after Anom-pi, arXiv 2607.00622, of which only the
abstract is public; the design here is this project's).

Reading order: ``views`` (which native frames a look shows), ``operators`` (from one view to the next), ``moves`` (what
a judge may write), ``environment`` (who shows the frames), ``episodes`` (look after look until an answer), ``policies``
(scripted ones), ``two_turn`` and ``model_policy`` (judges as policies), ``utility`` (what an episode was worth) and
``tabular`` (the same on a problem small enough to be enumerated); ``judging`` makes verdicts of episodes.
"""
