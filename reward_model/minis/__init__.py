"""The mini judge of ``assets/cac-mini``, trained from nothing on the procedural world; the library never imports it.

Reading order: ``model`` and ``tokenizer``, ``rows`` and ``frames`` (samples of the world), ``splices`` and ``drift``
(what makes them hard), ``collator``, then the warm-ups: ``warm_up_vision``, ``warm_up_reading``, ``warm_up_state``,
with ``gradients`` shared between processes.
"""
