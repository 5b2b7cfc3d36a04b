"""What a run will need, before it starts: parameters, memory, tokens, time, each with its reason.

Knows configurations (config.json), manifests, hardware as data, arithmetic. Knows no tensor, no text, no weights.
"""
