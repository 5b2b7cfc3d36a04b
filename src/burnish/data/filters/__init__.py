"""Signals about rows, the filters that act on them where the recipe says so, and what both found.

Every row gets its signals in the worker that makes it; what is decided of all rows together works on columns of numbers.
"""
