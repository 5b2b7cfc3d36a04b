"""vLLM as the engine: a process of its own environment, started, watched and started again, behind the engine's interface.

Nothing of vLLM is imported here. Adapters reach it by digest alone: copies of files that were checked, under names made of them.
"""
