"""From a prompt to a recorded video: ``pipeline`` and its ``scheduler``, the ``trajectory`` it records, the ``rollout``
of a step, and the ``policy`` that recomputes a velocity from its condition; ``embeddings`` keeps the texts.

Of two ``experts`` the one is asked whose timestep it is.
"""
