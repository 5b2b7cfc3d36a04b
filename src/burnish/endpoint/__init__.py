"""Asking a model over HTTP, in the words of OpenAI's chat API: retries, a cache on disk, a budget that holds.

It makes the function `complete(asks)` of `core.completion`, which rooms without HTTP are given.
"""
