"""A model as ONNX files: written, quantised, measured, and used without torch."""
