"""The gateway: who may ask, how much, and which version answers. It knows keys, limits and HTTP, and no model.

What answers is an ASGI application that is handed in: the engine of this process, or a client of another one.
"""
