"""The one reader of video files: what a file is (``reading``) and its pictures (``frames``).

Pictures are as a player shows them: turned and mirrored as the file asks, without what an edit list hides, from the
stream that is the video and not its cover. Seconds come from the time stamps: where frames do not follow each other at
a constant rate, the video is read as one of constant rate in which every moment shows the picture that a player would
show, so that frame ``k`` is seen at ``k / fps`` seconds wherever frames are counted.
"""
