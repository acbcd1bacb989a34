"""How models of other makers are asked about one video, and how rows of two ways of asking become one (C.2)."""
