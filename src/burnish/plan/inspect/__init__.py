"""Looking into a base model: formats, rounding, adapters and their sizes. Arithmetic; weights come as arrays from outside."""
