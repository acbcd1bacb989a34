"""Training the judge: stages 1 and 2 in ``sft``, stage 3 in ``grpo``.

Beside them: ``plan`` (memory and time before anything is rented), ``missing`` (what a machine lacks for a run),
``lora``, and the trained judge as a folder: ``export`` of stages 1 and 2, ``judge_folder`` of stage 3.
"""
