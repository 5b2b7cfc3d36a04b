#!/usr/bin/env bash
# Schemathesis over the gateway's OpenAPI document, in front of a real engine: no 5xx but 503 with Retry-After, and every
# answer as the document says. Takes schemathesis' program, installed in a virtual environment of its own.
#
#   benchmarks/schemathesis.sh schemathesis-venv/bin/schemathesis [examples an operation]
set -euo pipefail
cd "$(dirname "$0")/.."
schemathesis=$1 examples=${2:-30}
home=$(mktemp -d)
PYTHONPATH=src python -m burnish serve --port 0 --json --home "$home" > "$home/started.json" 2> "$home/log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -rf "$home"' EXIT
until grep -q '^}' "$home/started.json"; do kill -0 $server; sleep 0.5; done
url=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$home/started.json")
key=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["admin_key"])' "$home/started.json")
cat > "$home/hooks.py" <<'PY'
"""What must hold of every answer beside its schema."""
import schemathesis


@schemathesis.check
def busy_says_when_to_come_again(ctx, response, case):
    if response.status_code in (429, 503):
        assert "retry-after" in response.headers, "Retry-After is missing"
    assert response.status_code < 500 or response.status_code == 503, f"status {response.status_code}"
    assert "x-request-id" in response.headers
PY
SCHEMATHESIS_HOOKS=hooks PYTHONPATH="$home" "$schemathesis" run "$url/openapi.json" --header "Authorization: Bearer $key" \
  --max-examples "$examples" --request-timeout 60 --exclude-checks not_a_server_error,positive_data_acceptance,unsupported_method \
  --no-color
