"""Second-level tracks: turn two writes a box every ``delta`` seconds, from which those of the frames are interpolated.

Reading order: ``ticks`` (the instants, their boxes, and back to frames), ``smoothing`` (across seconds, never across a
break), ``codec`` (the two ways in which turn two's boxes are asked for, written and read).
"""
