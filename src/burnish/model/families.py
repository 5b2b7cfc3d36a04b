"""Modules of transformers of the known families, and which of their layers read one input."""

from __future__ import annotations

from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2MLP
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP

ATTENTION = (LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention, Gemma2Attention, Gemma3Attention)
GATED = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP, Gemma2MLP, Gemma3MLP)
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of the layers that read one input in the modules above."""
