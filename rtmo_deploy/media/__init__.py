"""Frames of images, videos and streams in; result files and videos out."""
