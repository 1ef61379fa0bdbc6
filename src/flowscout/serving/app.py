"""The endpoint as an application: routes, limits, and what is said when something is wrong."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from flowscout.errors import FlowscoutError, LabelError
from flowscout.loop.receiving import UNKNOWN_KEY, Word
from flowscout.serving import description
from flowscout.serving.doors import Door, Doors, RefusedError
from flowscout.serving.reading import read_answers
from flowscout.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

MAX_BODY = 2**20
"""Bytes of a post at most."""
BODY_S = 30.0
"""How long a body may take to come."""
THREADS = 8
"""Posts that are recorded at the same time; fewer than the connections that a history keeps."""
RETRY_S = 5
SETTLE_AGAIN_S = 5.0
"""How soon is looked again whether a round is complete whose campaign somebody held."""

T = TypeVar("T")


class Endpoint:
    """What the routes do."""

    def __init__(self, doors: Doors, *, max_body: int) -> None:
        from anyio import CapacityLimiter

        self.doors, self._max_body = doors, max_body
        self._threads = CapacityLimiter(THREADS)
        self._arrived = asyncio.Event()

    async def results(self, request: "Request") -> "Response":
        """Record answers that are posted."""
        signature = request.headers.get("x-flowscout-signature")
        if signature is None:
            door = self.doors.by_token(request.headers.get("authorization"))
            body = await self._body(request)
        else:
            body = await self._body(request)
            stamp = request.headers.get("x-flowscout-timestamp")
            door = await self._threaded(lambda: self.doors.by_signature(stamp, signature, body))
        try:
            answers = read_answers(body, secret=door.token)
            words = await self._threaded(lambda: door.desk.receive(answers))
        except BaseException as error:
            if signature is not None and not isinstance(error, RefusedError):
                await self._threaded(lambda: self.doors.forget(signature))
            raise
        self._log(door, words)
        if any(word.accepted for word in words):
            self._arrived.set()
        return _json(_status(words), {"results": [_shown(word) for word in words]})

    async def requests(self, request: "Request") -> "Response":
        """Say what an oracle is to measure."""
        door = self.doors.by_token(request.headers.get("authorization"))
        return _json(200, {"requests": await self._threaded(door.desk.waiting)})

    async def settle(self) -> None:
        """Whenever answers have come, bring on what waited for them; until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            settled = [await self._threaded(desk.settle) for desk in self.doors.desks]
            if not all(settled):
                await asyncio.sleep(SETTLE_AGAIN_S)
                self._arrived.set()

    async def _body(self, request: "Request") -> bytes:
        """Return the body; more than the limit is neither read nor kept.

        Raises:
            RefusedError: it is too large, too slow, or breaks off.
        """
        from starlette.requests import ClientDisconnect

        too_large = RefusedError(
            413, f"the body is larger than {self._max_body:,} bytes, expected at most that; split the answers."
        )
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._max_body:
            raise too_large
        read = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for piece in request.stream():
                    read += piece
                    if len(read) > self._max_body:
                        raise too_large
        except TimeoutError:
            raise RefusedError(408, f"the body did not come within {BODY_S:g} s; send it again.") from None
        except ClientDisconnect:
            raise RefusedError(400, "the body broke off; send it again.") from None
        return bytes(read)

    async def _threaded(self, work: Callable[[], T]) -> T:
        """Do what waits for a disk in a thread.

        Raises:
            RefusedError: the history or the file of signatures cannot be reached now.
        """
        from anyio.to_thread import run_sync
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        try:
            return await run_sync(work, limiter=self._threads)
        except LabelError as error:
            raise RefusedError(422, str(error)) from None
        except (DBAPIError, PoolTimeoutError, sqlite3.Error) as error:
            logger.warning("the history cannot be written: %s", error)
            raise BusyError("the history cannot be reached just now; try again.") from None
        except FlowscoutError as error:
            logger.warning("a post could not be recorded: %s", error)
            raise BusyError(
                "the campaign cannot be read just now; whoever runs this service finds why in its log."
            ) from None

    def _log(self, door: Door, words: Sequence[Word]) -> None:
        counts = {
            status: sum(word.status == status for word in words) for status in sorted({w.status for w in words})
        }
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        logger.info("oracle %s posted %d answers: %s", door.desk.oracle, len(words), told)


class BusyError(Exception):
    """What cannot be done now and may be later."""


def make_app(doors: Doors, *, max_body: int = MAX_BODY) -> "FastAPI":
    """Return the endpoint with these doors."""
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    endpoint = Endpoint(doors, max_body=max_body)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        settling = asyncio.create_task(endpoint.settle())
        yield
        settling.cancel()
        with suppress(asyncio.CancelledError):
            await settling

    app = FastAPI(
        title="Flowscout results", version=__version__, description=description.DESCRIPTION, lifespan=lifespan
    )
    either: list[dict[str, list[str]]] = [{"token": []}, {"signature": []}]
    body = {"requestBody": description.BODY, "security": either}

    @app.post("/results", responses=description.RESPONSES, openapi_extra=body, summary="Post answers")
    async def post_results(request: Request) -> Response:
        return await endpoint.results(request)

    @app.get(
        "/requests",
        responses=description.REQUESTS,
        openapi_extra={"security": either[:1]},
        summary="Ask what is to be measured",
    )
    async def get_requests(request: Request) -> Response:
        return await endpoint.requests(request)

    @app.get("/health", responses=description.HEALTH, summary="Ask whether it is there")
    async def get_health() -> Response:
        return _json(200, {"status": "ok"})

    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return _json(error.status, {"error": str(error)}, headers)

    @app.exception_handler(BusyError)
    async def busy(_request: Request, error: BusyError) -> Response:
        return _json(503, {"error": str(error)}, {"Retry-After": str(RETRY_S)})

    @app.exception_handler(HTTPException)
    async def elsewhere(_request: Request, error: HTTPException) -> Response:
        return _json(error.status_code, {"error": str(error.detail)}, dict(error.headers or {}))

    _describe(app)
    return app


def _describe(app: "FastAPI") -> None:
    """Let the OpenAPI page name the ways to say who posts."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = description.SECURITY
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documentation extends it


def _status(words: Sequence[Word]) -> int:
    """Return the status of a post: all answers taken, some, none of them known, or none that can be read."""
    taken = sum(word.accepted for word in words)
    if taken:
        return 200 if taken == len(words) else 207
    return 404 if all(word.status == UNKNOWN_KEY for word in words) else 422


def _shown(word: Word) -> dict[str, Any]:
    more = {} if word.message is None else {"message": word.message}
    return {"key": word.key, "status": word.status, **more}


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)
