"""Turns a checkpoint into a bundle: one encoder graph, one embedder graph per patch size, verified, published whole."""
