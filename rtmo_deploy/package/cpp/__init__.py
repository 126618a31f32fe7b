"""A C++ program that runs a model with ONNX Runtime or TensorRT."""

from rtmo_deploy.package.cpp.package import package_cpp

__all__ = ["package_cpp"]
