"""LMs over https: verified by the authorities that ``SSL_CERT_FILE`` names, and refused where nobody vouches."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.lm.profiles import LMProfile
from snakepit_bridge.testing import RecordingLM
from tests.harness.tls import Certificates


@asynccontextmanager
async def behind_tls(lm: RecordingLM, files: Certificates) -> AsyncGenerator[str]:
    """Serve an LM over TLS and yield its base URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server, files.server_key)
    host, _, port = lm.url.removeprefix("http://").removesuffix("/v1").partition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, ours), copy(theirs, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_an_lm_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_trusted: bool) -> None:
    files = Certificates.issue(tmp_path)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    with RecordingLM(lambda _: {"answer": "42"}, api_key="sesame") as lm:
        async with behind_tls(lm, files) as url:
            lm_of_profile = LMProfile("demo", "openai/demo", api_base=url, api_key=SecretStr("sesame")).build()
            with dspy.context(lm=lm_of_profile):
                prediction = dspy.Predict("question -> answer").acall(question="why?")
                if is_trusted:
                    assert (await prediction).answer == "42"
                else:
                    with pytest.raises(Exception, match="(?i)certificate"):
                        await prediction
        assert len(lm.requests) == is_trusted
