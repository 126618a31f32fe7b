"""Training: augmentation, assignment, losses, schedule, loop.

Follows the recipe of the RTMO paper (arXiv 2312.07526) as MMPose 1.3.2 runs it; each module names its source.
"""
