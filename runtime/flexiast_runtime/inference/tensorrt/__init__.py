"""TensorRT: plans are built, kept and run on the device itself."""
