"""The nouns: recipe, artifacts, ids, errors, units, events. Knows no file layout, no text, no tensor."""
