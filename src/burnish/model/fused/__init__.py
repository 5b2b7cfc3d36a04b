"""Decoder layers of known families as a few autograd functions: joined frozen weights, stacked adapters, manual backward."""
