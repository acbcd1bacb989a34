"""From a prompt to a recorded video: ``pipeline`` and its ``scheduler``, the ``trajectory`` it records, the ``rollout``
of a step, and the ``policy`` that recomputes a velocity from its condition, with two ``experts`` that of the one whose
timestep it is; ``embeddings`` keeps the texts.
"""
