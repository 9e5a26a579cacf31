"""Training: batches, augmentation, the loop, its journal."""
