"""UnifiedReward (arXiv 2503.05236): ``protocols`` ask about one video and ``pairs`` about two, ``wording`` says whose
sentences are used, ``score`` puts the questions to any backend.
"""
