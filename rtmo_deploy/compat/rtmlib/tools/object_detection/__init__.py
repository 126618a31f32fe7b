"""Import paths of rtmlib's ``tools.object_detection``."""
