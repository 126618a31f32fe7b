"""Recipes, steps, gates and what a working directory has made."""

from __future__ import annotations
