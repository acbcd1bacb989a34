"""The experiment of docs/second_look.md: what one turn and two turns decide after trainings that differ in how they
reward a second look.

``settings`` says what can be asked for, ``stage_runs`` which runs of the stage recipes that means, ``experiment`` runs
and measures them, ``tables`` shows what came of it.
"""
