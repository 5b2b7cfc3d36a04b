"""burnish: raw documents in, a proven specialist model out."""

__version__ = "0.1.0"
