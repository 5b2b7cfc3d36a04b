"""The page on which rows are reviewed: one document without anything from elsewhere, and the server for it on 127.0.0.1.

It knows no data: what is next and what was said come and go by functions.
"""
