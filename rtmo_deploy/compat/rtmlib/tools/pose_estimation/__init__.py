"""Import paths of rtmlib's ``tools.pose_estimation``."""

from rtmo_deploy.compat.rtmlib.tools.pose_estimation.rtmo import RTMO

__all__ = ["RTMO"]
