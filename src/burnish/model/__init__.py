"""Tensors: bases, quantisation, adapters, packed attention, losses, decoding. Knows no text, no recipe, no file of rows."""
