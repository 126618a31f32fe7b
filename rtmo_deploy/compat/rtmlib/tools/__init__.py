"""Import paths of rtmlib's ``tools``."""
