"""Folders that other programs run a model from."""
