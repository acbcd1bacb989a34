"""The aliasing suite played by judges that look themselves, and by scripts beside them.

Reading order: ``play`` makes rows, ``criteria`` says what they have to show, ``run`` does both for a judge, and
``report`` makes tables of them.
"""
