"""Release recipes, their steps, their gates and the folder that is handed over."""

from __future__ import annotations
