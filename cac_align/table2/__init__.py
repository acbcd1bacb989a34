"""The paper's Table 2 for your own models: has alignment helped?

Reading order: ``settings`` (``rows``, ``drawing``), ``job``, then its work in units that processes share (``work``):
``training``, ``adapters``, ``draws``, ``scores`` (``measures``, ``ratings``). ``matrix`` and ``maths`` turn them into
numbers, ``results`` keeps these in one file; ``tables``, ``correlations``, ``spread``, ``curves``, ``pace`` and
``page`` show them; ``forecast`` says beforehand what it will take.
"""
