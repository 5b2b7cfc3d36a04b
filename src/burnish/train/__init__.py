"""One training loop; a method is batches() + loss(). Knows the plan, token rows and a model; knows no text and no recipe."""
