"""LangChain against a burnish server: answers, a stream, a batch, a tool call, a structured answer, embeddings.

pip install langchain-openai, then: python langchain_client.py http://127.0.0.1:8731/v1 base KEY
"""

from __future__ import annotations

import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr


class Flight(BaseModel):
    """A flight that somebody asks for."""

    origin: str = Field(max_length=12)
    destination: str = Field(max_length=12)
    adults: int = Field(ge=1, le=9)


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


def main() -> None:
    """Ask for one of each."""
    url, name, key = sys.argv[1:4]
    model = ChatOpenAI(model=name, base_url=url, api_key=SecretStr(key), max_completion_tokens=120, temperature=0)
    print("answer:", model.invoke("What is the capital of France?").content)
    print("stream:", "|".join(str(chunk.content) for chunk in model.stream("Count to five.")))
    print("batch:", [answer.usage_metadata for answer in model.batch(["One?", "Two?", "Three?"])])
    asked = HumanMessage("What is the weather in Ulm?")
    call = model.bind_tools([weather], tool_choice="weather").invoke([asked])
    print("tool call:", call.tool_calls)
    result = ToolMessage(weather.invoke(call.tool_calls[0]["args"]), tool_call_id=call.tool_calls[0]["id"])
    print("after the tool:", model.bind_tools([weather]).invoke([asked, call, result]).content)
    for method in ("json_schema", "function_calling"):
        structured = model.with_structured_output(Flight, method=method)
        print(f"{method}:", structured.invoke("Two adults from Ulm to Bonn, please."))
    vectors = OpenAIEmbeddings(
        model=name, base_url=url, api_key=SecretStr(key), check_embedding_ctx_length=False
    ).embed_documents(["a flight to Rome", "a cancelled invoice"])
    print("embeddings:", len(vectors), "of", len(vectors[0]))


if __name__ == "__main__":
    main()
