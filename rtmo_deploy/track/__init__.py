"""Gives the people of a video ids that stay, and smooths their keypoints over time."""

from rtmo_deploy.track.smoother import Smoother
from rtmo_deploy.track.tracker import Tracker

__all__ = ["Smoother", "Tracker"]
