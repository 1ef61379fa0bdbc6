"""An oracle for a service that speaks in its own way: here GET /score/SEQUENCE, which answers {"score": 1.5}."""

import httpx

ADDRESS = "http://127.0.0.1:8701"


async def score(sequence: str) -> float:
    """Ask the service about one object; several are asked at the same time."""
    async with httpx.AsyncClient(base_url=ADDRESS, timeout=20) as client:
        answer = await client.get(f"/score/{sequence}")
    return float(answer.raise_for_status().json()["score"])
