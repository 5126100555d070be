"""The dashboard in a real browser, in front of two emulated engines under load."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from serving.support import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH"),
]
PROFILE = "llama-3.1-8b@h100"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A sandbox needs rights that containers do not give; the page is our own.
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Load:
    """Two clients that ask again and again, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url + "/v1/completions"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client_number: int) -> None:
        with httpx2.Client(timeout=60) as client:
            number = 0
            while not self._stop.wait(0.02):
                number += 1
                body = {"model": "m", "prompt": f"{client_number} {number}", "max_tokens": 40, "stream": True}
                assert client.post(self._url, json=body).status_code == 200


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).first.inner_text(timeout=60_000)


def until(page: Page, script: str) -> None:
    """Waits until an expression holds. The page's own waiting would be a script that its content policy refuses."""
    deadline = time.monotonic() + 120
    while not page.evaluate(script):
        assert time.monotonic() < deadline, script
        page.wait_for_timeout(50)


def test_it_shows_what_happens_and_goes_on_showing_it(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('policy = "least_work"\nshadow_interval_s = 0.5\nshadow_policies = ["round_robin"]\n')
    engine = ("engine", "--profile", PROFILE, "--port", "0", "--speed", "4", "--chunk-tokens", "8")
    with Server(*engine) as first, Server(*engine) as second:
        urls = [argument for server in (first, second) for argument in ("--instance", server.url)]
        with Server("serve", "--port", "0", "--config", str(config), *urls) as proxy:
            page = browser.new_page()
            trouble: list[str] = []
            requested: list[str] = []
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("console", lambda message: trouble.append(message.text))
            page.on("request", lambda request: requested.append(request.url))
            page.goto(proxy.url + "/dashboard")
            until(page, "document.querySelectorAll('.instance').length === 2")
            assert text_of(page, ".pool h2") == "least_work"
            assert [first.url in text_of(page, ".instance"), "ready" in text_of(page, ".instance")] == [
                True,
                True,
            ]
            assert "too few requests" in text_of(page, ".latency")
            assert text_of(page, ".tile:nth-child(4) b") == "0"
            with Load(proxy.url):
                taken = "Number(document.querySelector('.tile:nth-child(4) b').textContent.replace(/,/g, ''))"
                until(page, f"{taken} > 5")
                before = int(page.evaluate(taken))
                until(page, f"{taken} > {before + 10}")
                until(page, "document.querySelectorAll('.decisions tr').length === 13")
                assert "to the first token" in text_of(page, ".decisions .why")
                until(page, "document.querySelectorAll('table.latency tr').length === 4")
                rows = page.locator("table.latency td:first-child").all_inner_texts()
                assert rows == ["least_work, measured", "least_work, simulated", "round_robin, simulated"]
                until(page, "document.querySelector('.residents .meter') !== null")
                until(page, "Number(document.querySelector('.tile b').textContent) > 0")
            assert trouble == [], "nothing is refused by the content policy, nothing is missing"
            assert {url.startswith(proxy.url + "/") for url in requested} == {True}
            proxy.process.kill()
            until(page, "document.getElementById('connection').className === 'lost'")
            page.close()


def test_no_text_of_a_request_becomes_markup(browser: Browser, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    config = tmp_path / "proxy.toml"
    config.write_text(
        f'[[models]]\nname = "{name}"\n[[instances]]\nurl = "http://127.0.0.1:9"\nmodel = "{name}"\n'
    )
    with Server("serve", "--port", "0", "--config", str(config)) as proxy:
        page = browser.new_page()
        page.goto(proxy.url + "/dashboard")
        until(page, "document.querySelectorAll('.instance').length === 1")
        assert text_of(page, ".pool h2") == f"{name}: guided"
        assert page.locator("main img").count() == 0
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title=1'}))"
        )
        time.sleep(0.2)
        assert page.title() == "irouter", "the content policy refuses scripts of the page itself"
        page.close()


def test_the_admin_key_opens_it(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IROUTER_ADMIN_KEY", "admin-secret")
    config = tmp_path / "proxy.toml"
    config.write_text('[[instances]]\nurl = "http://127.0.0.1:9"\n')
    with Server("serve", "--port", "0", "--config", str(config)) as proxy:
        stranger = browser.new_page()
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            stranger.goto(proxy.url + "/dashboard")
        stranger.close()
        page = browser.new_page(http_credentials={"username": "any", "password": "admin-secret"})
        page.goto(proxy.url + "/dashboard")
        until(page, "document.querySelectorAll('.instance').length === 1")
        page.close()
