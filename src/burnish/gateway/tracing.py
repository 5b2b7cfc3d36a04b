"""OpenTelemetry, when the settings ask for it: one span for each call of a model, without texts and without keys.

Attribute names are those of the generative AI conventions (in development there):
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from burnish.core.errors import ResourceError
from burnish.gateway.route import Choice

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}


def exporting_provider() -> TracerProvider:
    """Return a provider that sends spans where the usual OTEL_EXPORTER_OTLP_* variables say.

    Raises ResourceError when OpenTelemetry's exporter is not installed.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
    except ImportError as error:
        raise ResourceError("tracing needs OpenTelemetry. Install it: pip install 'burnish[tracing]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "burnish-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Tracing:
    """Makes a span of a call that has ended. A `traceparent` of the client's becomes its parent."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("burnish.gateway")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self, headers: Mapping[bytes, bytes], path: str, choice: Choice, status: int, seconds: float,
        first_s: float | None, spent: tuple[int, int],
    ) -> None:  # fmt: skip
        """Record a call that took `seconds` and ends now."""
        end = time.time_ns()
        carrier = {"traceparent": headers[b"traceparent"].decode("latin-1")} if b"traceparent" in headers else {}
        span = self._tracer.start_span(
            f"{OPERATIONS[path]} {choice.alias}", self._propagator.extract(carrier), start_time=end - int(seconds * 1e9)
        )
        span.set_attributes({
            "gen_ai.operation.name": OPERATIONS[path], "gen_ai.request.model": choice.alias,
            "gen_ai.response.model": choice.model, "gen_ai.usage.input_tokens": spent[0],
            "gen_ai.usage.output_tokens": spent[1], "http.response.status_code": status,
        })  # fmt: skip
        if first_s is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
