"""Runs bundles: engines, the streaming path and the governor. Never imports torch."""

import os

# Sound that is recognised on a device stays there, and so does the fact that it was. From 1.29 on ONNX Runtime sends
# usage events to its vendor and keeps a device id under ~/.cache, unless this is set before it is loaded for the first
# time; its own call to switch them off comes too late for the first event. Whoever sets the variable is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
