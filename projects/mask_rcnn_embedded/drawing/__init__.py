"""What all data sets are drawn with.

In all functions ``rng`` is the random generator of the image, and ``theme`` a list of (3,) BGR
colours of the scene, from which some things take theirs.
"""
