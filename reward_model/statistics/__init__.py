"""How sure a number is: ``intervals`` of shares and of anything else, ``significance`` of differences on the same
videos, ``agreement`` of annotators, and the ``table`` all of them are printed in. Pure functions of arrays.
"""
