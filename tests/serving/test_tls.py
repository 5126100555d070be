"""Certificates: the proxy's own, and those of engines, with real ones that no system trusts."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import trustme

from irouter import IrouterError
from irouter.serving import Instance
from irouter.serving.proxy import ProxyConfig, make_app
from serving.support import Server, eventually

BODY = {"model": "m", "prompt": "Hello", "max_tokens": 5}


class Engine(BaseHTTPRequestHandler):
    """Answers every completion alike, and has metrics."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(b'{"choices":[{"text":"Hi"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}')

    def do_GET(self) -> None:
        page = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.5\n"
        self.answer(page if self.path == "/metrics" else b"{}")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def engine(authority: trustme.CA) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def write(folder: Path, authority: trustme.CA) -> str:
    """Files of an authority and of a certificate for this machine, as settings of the proxy."""
    folder.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    files = {"upstream_ca": "ca.pem", "tls_certificate": "own.pem", "tls_key": "own.pem"}
    return "".join(f'{name} = "{folder / file}"\n' for name, file in files.items())


def test_clients_and_engines_are_spoken_to_in_tls(tmp_path: Path, authority: trustme.CA, engine: str) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(write(tmp_path, authority) + "health_interval_s = 0.1\npoll_s = 0.1\n")
    with Server("serve", "--port", "0", "--config", str(config), "--instance", engine) as proxy:
        assert proxy.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        with httpx2.Client(verify=trusting, timeout=30) as client:
            answer = client.post(proxy.url + "/v1/completions", json=BODY)
            assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "Hi")
            assert client.get(proxy.url + "/health").status_code == 200
            eventually(
                lambda: "irouter_engine_report_age_seconds{" in client.get(proxy.url + "/metrics").text, 30
            )
        with (
            httpx2.Client(timeout=30) as stranger,
            pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            stranger.get(proxy.url + "/health")
        with pytest.raises(httpx2.TransportError):
            httpx2.get(proxy.url.replace("https", "http") + "/health", timeout=30)


@pytest.mark.parametrize("trust", ["another", "none"])
def test_an_engine_that_nobody_vouches_for_gets_no_request(trust: str, tmp_path: Path, engine: str) -> None:
    settings = "retries = 0\n"
    if trust == "another":
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        settings += f'upstream_ca = "{tmp_path / "other.pem"}"\n'
    config = tmp_path / "proxy.toml"
    config.write_text(settings)
    with Server("serve", "--port", "0", "--config", str(config), "--instance", engine) as proxy:
        answer = httpx2.post(proxy.url + "/v1/completions", json=BODY, timeout=30)
        assert answer.status_code == 502
        assert "ClientConnectorCertificateError" in json.dumps(answer.json())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bad_file_of_authorities_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    config = ProxyConfig(
        instances=(Instance("https://a", "llama-3.1-8b@h100"),), upstream_ca=str(path), dashboard=False
    )
    with pytest.raises(IrouterError, match=r"upstream_ca .*ca\.pem: "):
        make_app(config)
