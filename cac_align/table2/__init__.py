"""The paper's Table 2 for your own models: has alignment helped?

Reading order: ``settings``, ``job``, then its work in units that processes share (``work``): ``training``, ``draws``,
``scores`` (``measures``, ``ratings``). ``matrix`` and ``maths`` turn them into numbers; ``tables``, ``correlations``,
``spread``, ``curves`` and ``page`` show them; ``forecast`` says beforehand what it will take.
"""
