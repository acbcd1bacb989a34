"""Uncertainty of numbers: ``intervals`` of shares and of anything else, ``significance`` of differences on the same
videos, ``agreement`` of annotators, and the ``table`` they are printed in. ``second_look`` reckons what two turns can
reach and what stage 3 teaches the first. Pure functions of arrays and numbers.
"""
