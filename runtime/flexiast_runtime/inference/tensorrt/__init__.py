"""TensorRT: plans are built, cached and run on the device itself."""
