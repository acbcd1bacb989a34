"""Models of other makers: ``status`` asks a question that is answered with a word, ``thinker`` is VR-Thinker."""
