"""Uncertainty of numbers: ``intervals`` of shares and of anything else, ``significance`` of differences on the same
videos, ``agreement`` of annotators, and the ``table`` they are printed in. Pure functions of arrays.
"""
