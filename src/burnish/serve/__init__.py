"""Serving: an engine that answers many requests at once, an OpenAI-compatible API on top, and a chat in the terminal.

Knows models as tensors and text as token ids. Knows no registry and no home folder: adapters come as name and folder.
"""
