"""Settings and sources with which NVIDIA DeepStream's Gst-nvinfer runs a model."""

from rtmo_deploy.package.deepstream.package import package_deepstream

__all__ = ["package_deepstream"]
