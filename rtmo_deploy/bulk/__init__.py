"""Many images with Ray, on one machine or a cluster."""
