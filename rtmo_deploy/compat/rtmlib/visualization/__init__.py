"""Import paths of rtmlib's ``visualization``."""

from rtmo_deploy.compat.rtmlib.visualization.draw import draw_bbox, draw_skeleton

__all__ = ["draw_bbox", "draw_skeleton"]
