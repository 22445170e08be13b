"""A triangular model as an ONNX file."""

from simplicit.runtime.onnx.export import OnnxFile, check_onnx, export_onnx

__all__ = ["OnnxFile", "check_onnx", "export_onnx"]
