"""The chat page: HTML, style and scripts that speak HTTP to the gateway, and nothing else. No build step, no CDN."""
