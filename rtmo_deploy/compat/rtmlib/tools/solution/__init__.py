"""Import paths of rtmlib's ``tools.solution``."""

from rtmo_deploy.compat.rtmlib.tools.solution.body import Body
from rtmo_deploy.compat.rtmlib.tools.solution.custom import Custom
from rtmo_deploy.compat.rtmlib.tools.solution.pose_tracker import PoseTracker

__all__ = ["Body", "Custom", "PoseTracker"]
