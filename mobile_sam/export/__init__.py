"""Export of a model as ONNX files in several precisions, with a predictor that needs no torch."""

import os

# Since 1.32 onnxruntime reports the models it runs to its vendor, from background threads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
