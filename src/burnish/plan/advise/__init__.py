"""Which way to go: prompt, retrieval, instruction tuning, LoRA, QLoRA, full fine-tuning, DPO, RLHF, or stages of them.

Rules and priors are data with sources; what a person says of their situation goes in, reasons and prices come out.
"""
