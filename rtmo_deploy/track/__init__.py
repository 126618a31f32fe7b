"""Gives the people of a video ids that stay, and smooths their keypoints over time."""
