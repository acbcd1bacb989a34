"""Training the judge: stages 1 and 2 with TRL's SFTTrainer, and the mini judge, from scratch on the procedural world.

``sft`` knows conversations and answers only and serves models of any size. Everything named ``mini`` belongs to the
small checkpoint in ``assets/cac-mini``: configuration, tokenizer and processor (``mini_config``), samples
(``mini_data``, ``mini_frames``, ``mini_splice``) and the warm-ups of its vision tower (``mini_warmup``) and its reading
(``mini_reading``); ``recipes/build_minis.py`` runs its stages one after the other.
"""
