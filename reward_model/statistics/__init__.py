"""Uncertainty of numbers, the table they are printed in, and what can be reckoned beforehand. Pure functions.

``intervals`` of shares and of anything else, ``significance`` of differences on the same videos, ``agreement`` of
annotators, ``table``; ``second_look``: what two turns can reach, and what stage 3 teaches the first.
"""
