"""A client of HMA as its users write one: the calls of facebook/ThreatExchange's documentation and OpenAPI, no others.

It knows nothing of Stopframe. Paths, parameters and the form's field name are those of hasher-matcher-actioner's
blueprints `matching`, `hashing` and `curation`.
"""

from typing import Any

import httpx


class HmaClient:
    """Asks an HMA at `http.base_url`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def lookup(self, signal: str, signal_type: str = "pdq", **parameters: str) -> dict[str, Any]:
        """GET /m/lookup: matches by bank."""
        return await self._json("GET", "/m/lookup", {"signal": signal, "signal_type": signal_type, **parameters})

    async def lookup_file(self, content: bytes, **parameters: str) -> dict[str, Any]:
        """POST /m/lookup: matches by signal type and bank."""
        files = {"photo": ("picture.png", content, "image/png")}
        return await self._json("POST", "/m/lookup", parameters, files=files)

    async def raw_lookup(self, signal: str, signal_type: str = "pdq", **parameters: str) -> list[Any]:
        """GET /m/raw_lookup."""
        asked = {"signal": signal, "signal_type": signal_type, **parameters}
        matches: list[Any] = (await self._json("GET", "/m/raw_lookup", asked))["matches"]
        return matches

    async def compare(self, left: str, right: str) -> tuple[bool, int]:
        """POST /m/compare: whether they match, and the distance."""
        is_match, info = (await self._json("POST", "/m/compare", {}, json={"pdq": [left, right]}))["pdq"]
        return is_match, info["distance"]

    async def index_status(self) -> dict[str, Any]:
        """GET /m/index/status."""
        return await self._json("GET", "/m/index/status", {})

    async def hash_file(self, content: bytes) -> dict[str, Any]:
        """POST /h/hash: hashes by signal type."""
        return await self._json("POST", "/h/hash", {}, files={"photo": ("picture.png", content, "image/png")})

    async def banks(self) -> dict[str, float]:
        """GET /c/banks: the enabled ratio of each."""
        found: Any = await self._json("GET", "/c/banks", {})
        return {one["name"]: one["matching_enabled_ratio"] for one in found}

    async def is_ready(self) -> bool:
        """GET /status, as a load balancer asks."""
        answer = await self.http.get("/status")
        return answer.status_code == 200 and answer.text == "I-AM-ALIVE"

    async def _json(self, method: str, path: str, parameters: dict[str, str], **more: Any) -> Any:
        answer = await self.http.request(method, path, params=parameters, **more)
        answer.raise_for_status()
        return answer.json()
