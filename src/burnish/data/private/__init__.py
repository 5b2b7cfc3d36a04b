"""Personal data and secrets: found in one pass, replaced by one of five actions, and the recall measured on plants.

Knows texts. Knows no rows, no files of data and no recipe.
"""
