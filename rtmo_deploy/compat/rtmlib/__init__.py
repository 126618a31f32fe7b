"""rtmlib's interface on this package: ``from rtmo_deploy.compat.rtmlib import RTMO, Body, Custom, PoseTracker``.

Names, signatures, defaults and results are those of rtmlib 0.0.16, also at its import paths below ``tools`` and
``visualization``. docs/guides/rtmlib.md lists what differs on purpose. Only RTMO is here: the classes of rtmlib's other
networks can be imported, and say so when they are made.
"""

from rtmo_deploy.compat.rtmlib.tools.elsewhere import (
    RFDETR,
    YOLOX,
    Animal,
    BodyWithFeet,
    Hand,
    RTMDet,
    RTMPose,
    RTMPose3d,
    ViTPose,
    Wholebody,
    Wholebody3d,
)
from rtmo_deploy.compat.rtmlib.tools.pose_estimation.rtmo import RTMO
from rtmo_deploy.compat.rtmlib.tools.solution.body import Body
from rtmo_deploy.compat.rtmlib.tools.solution.custom import Custom
from rtmo_deploy.compat.rtmlib.tools.solution.pose_tracker import PoseTracker
from rtmo_deploy.compat.rtmlib.visualization.draw import draw_bbox, draw_skeleton

__all__ = [
    "RFDETR",
    "RTMO",
    "YOLOX",
    "Animal",
    "Body",
    "BodyWithFeet",
    "Custom",
    "Hand",
    "PoseTracker",
    "RTMDet",
    "RTMPose",
    "RTMPose3d",
    "ViTPose",
    "Wholebody",
    "Wholebody3d",
    "draw_bbox",
    "draw_skeleton",
]
