"""Metrics for each patch size, calibration and operating points."""
