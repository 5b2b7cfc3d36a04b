"""What the small tokenizers of the tests are trained on, and how Llama 3 cuts words."""

LINES = [
    "Find me flights from New York to London next Tuesday under $800.",
    '{"action": "search_flights", "parameters": {"origin": "NYC", "max_price": 800}}',
    "You are a helpful assistant. Today is Tuesday 2025-07-08.",
    "Zürich, São Paulo, 東京, Москва, naïve café 🛫",
    "The answer is: Answer. The Answers are in the answer, nswer.",
    "system user assistant User: Assistant:\n\n",
]

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
