"""A model as ONNX files: written, quantised, measured, and used without torch."""

import os

# Since 1.32 onnxruntime sends what models it runs to its maker, from threads of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
