"""The mini judge of ``assets/cac-mini``, trained from scratch on the procedural world; the library never imports it.

Reading order: ``model`` and ``tokenizer``, ``rows`` and ``frames`` (samples of the world), ``splices`` and ``drift``
(what makes them hard), ``collator``, ``optimizer``, then ``warm_up`` with ``warm_up_vision``, ``warm_up_reading``,
``annotated_marks`` (the same on annotated videos), ``warm_up_state`` and ``gradients``; ``stages`` hands all of it to
stages 1 and 2.
"""
