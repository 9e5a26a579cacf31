"""flexiast: one audio spectrogram transformer, many patch sizes.

This package holds what every stage shares (the spec, the front end, the patch matrices, labels and the bundle's
manifest, all numpy only) and the training side (model, data, train, evaluate), which needs the extra ``train``.
"""

__version__ = "0.1.0"
