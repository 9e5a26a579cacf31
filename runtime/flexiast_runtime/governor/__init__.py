"""Which patch size runs next: a pure function of what was observed."""
