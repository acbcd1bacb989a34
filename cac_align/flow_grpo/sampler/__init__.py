"""From a prompt to a recorded video: ``pipeline`` and its ``scheduler``, the ``trajectory`` it records, ``embeddings``,
``conditioning``, the ``rollout`` of a step, and the ``policy`` that recomputes a velocity.
"""
