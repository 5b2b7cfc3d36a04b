"""Text and token ids: messages, the system prompt, one rendering for training, evaluation and serving, tokenizers.

Knows chat templates and tokenizer files. Knows no tensor, no dataset and no server.
"""
