// The gateway, over HTTP. The key lives in this module's memory alone: no storage, no cookie, no URL.

let key = null;

export function setKey(text) {
  key = text;
}

export class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      ...options,
      headers: { authorization: `Bearer ${key}`, ...(options.body ? { "content-type": "application/json" } : {}), ...options.headers },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The gateway cannot be reached. Is it still running?", null);
  }
  if (!response.ok) {
    const retry = response.headers.get("retry-after");
    let message = `The gateway answered ${response.status}.`;
    try {
      message = (await response.json()).error.message;
    } catch {
      // not JSON: the status says it
    }
    if (response.status === 401) document.dispatchEvent(new Event("key-refused"));
    throw new ApiError(response.status, retry ? `${message} (try again in ${retry} s)` : message, retry);
  }
  return response;
}

export async function listModels() {
  return (await (await call("/v1/models")).json()).data.map((card) => card.id);
}

export async function sendFeedback(record) {
  await call("/feedback", { method: "POST", body: JSON.stringify(record) });
}

// Stream one answer. onText(whole text so far) is called as it grows. Returns the answer with its numbers; an abort of
// the signal closes the connection, which cancels the answer in the engine, and returns what had come.
export async function answer(request, signal, onText) {
  const began = performance.now();
  const result = { text: "", model: request.model, intent: null, promptHash: null, tokens: null, firstSeconds: null, seconds: null, stopped: false, finish: null };
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    result.model = response.headers.get("x-burnish-model") ?? request.model;
    result.intent = response.headers.get("x-burnish-intent");
    result.promptHash = response.headers.get("x-burnish-prompt");
    let complete = false;
    for await (const event of events(response.body)) {
      complete = event === null;
      if (complete) break;
      if (event.error) throw new ApiError(503, event.error.message, null);
      if (event.usage) result.tokens = event.usage.completion_tokens;
      const choice = event.choices?.[0];
      if (choice?.finish_reason) result.finish = choice.finish_reason;
      const piece = choice?.delta?.content;
      if (piece) {
        result.firstSeconds ??= (performance.now() - began) / 1000;
        result.text += piece;
        onText(result.text);
      }
    }
    if (!complete) throw new ApiError(0, "The connection broke off before the answer was complete.", null);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    if (error.name !== "AbortError") throw new ApiError(0, "The connection broke off before the answer was complete.", null);
    result.stopped = true;
  }
  result.seconds = (performance.now() - began) / 1000;
  return result;
}

// Yields the events of a stream, and null for its last word.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.startsWith("data:") ? part.slice(5).trim() : "";
      if (data) yield data === "[DONE]" ? null : JSON.parse(data);
    }
  }
}
