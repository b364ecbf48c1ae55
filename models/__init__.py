"""Pixels in, matches and scores out: synchronous and pure."""

import os

# From 1.29 on the official Linux builds of ONNX Runtime report usage to their maker unless this stands before their
# import (onnxruntime docs/Privacy.md). The requirement is capped below that; this holds where someone lifts the cap.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
