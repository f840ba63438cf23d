"""Certificates of an authority of the tests' own, and a redis-server that speaks TLS and asks for them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.harness import servers
from tests.harness.cluster import free_ports, local_server


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: the authority, a server's certificate for loopback, and a client's."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def issue(cls, folder: Path) -> Certificates:
        """Return certificates of a new authority, written to a folder."""
        names = ("ca.pem", "cert.pem", "key.pem", "client.pem", "client-key.pem")
        files = cls(*(folder / name for name in names))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(files.authority)
        server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client@example.org")
        server.private_key_pem.write_to_path(files.server_key)
        server.cert_chain_pems[0].write_to_path(files.server)
        client.private_key_pem.write_to_path(files.client_key)
        client.cert_chain_pems[0].write_to_path(files.client)
        return files


@contextmanager
def tls_redis(folder: Path) -> Generator[tuple[str, Certificates]]:
    """Run Debian's redis-server with TLS alone, for clients with a certificate; yield its bare URL and the files."""
    files = Certificates.issue(folder)
    [port] = free_ports(1)
    tls = {
        "--port": "0", "--tls-port": str(port), "--tls-auth-clients": "yes", "--tls-ca-cert-file": str(files.authority),
        "--tls-cert-file": str(files.server), "--tls-key-file": str(files.server_key),
    }  # fmt: skip
    client = {
        "ssl": True, "ssl_ca_certs": str(files.authority), "ssl_certfile": str(files.client),
        "ssl_keyfile": str(files.client_key),
    }  # fmt: skip
    with servers.running_on("redis"):
        words = [word for pair in tls.items() for word in pair]
        with local_server(folder / "server", *words, port=port, host="127.0.0.1", **client):
            yield f"rediss://127.0.0.1:{port}/0", files
