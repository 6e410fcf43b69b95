"""JupyterLab and Debian's chromium for the browser tests.

One server and one browser serve all tests of a worker.  The server is `tdxlab lab` as a reader starts it, on a copy of
the notebooks, so that a test may edit them.  No request may leave the loopback.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.browser.loopback import Loopback

TOKEN = "browser-test"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # a request that should not be made must not succeed either
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


PRIVATE = [
    "HOME",
    "IPYTHONDIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
]


def _chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        _missing("no chromium for the browser tests; run: apt-get install chromium fonts-dejavu-core")
    if importlib.util.find_spec("playwright") is None:
        _missing("no playwright for the browser tests; run: pip install 'tdxlab[browser]'")
    return str(path)


def _missing(what: str) -> NoReturn:
    if os.environ.get("TDXLAB_BROWSER") == "required":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def build(checkout: Path) -> Path:
    """The ignored folder that keeps screenshots and logs."""
    folder = checkout / "build" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def notebooks(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks, in a copy of the checkout that is otherwise links."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("tdxlab", "data"):
        (copy / part).symlink_to(checkout / part)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints")
    return Path(shutil.copytree(checkout / "notebooks", copy / "notebooks", ignore=ignore))


@pytest.fixture(scope="session")
def lab(notebooks: Path, build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running JupyterLab without the reader's own settings."""
    _chromium()
    home = tmp_path_factory.mktemp("home")
    private = {name: str(home / name) for name in PRIVATE}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tdxlab", "lab", "--port", str(port)]
    with (build / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=notebooks.parent,
            env={**os.environ, **private, "JUPYTER_TOKEN": TOKEN, "LABARGS": "--no-browser"},
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def _wait(address: str, server: "subprocess.Popen[bytes]") -> None:
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        assert server.poll() is None, "JupyterLab stopped; see build/browser/server.log"
        try:
            with urlopen(f"{address}/api", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("JupyterLab did not answer within 60 s; see build/browser/server.log")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a new profile, as Playwright's browser context."""
    path = _chromium()
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            # else its libraries leave caches in the reader's home, or here
            env={**os.environ, "HOME": str(profile), "XDG_CACHE_HOME": str(profile), "XDG_RUNTIME_DIR": str(profile)},
            headless=True,
            viewport={"width": 1400, "height": 1600},
            args=FLAGS,
        )
        yield context
        context.close()


@pytest.fixture
def open_notebook(
    lab: str, browser: Any, build: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Any]]:
    """Open a notebook by file name; on leaving, see that no request went further than the loopback."""
    from tests.browser.notebook import Notebook

    loopback = Loopback()
    pages = []

    def opened(name: str) -> Notebook:
        page = browser.new_page()
        loopback.follow(page)
        pages.append(page)
        return Notebook(page, lab, TOKEN, name)

    yield opened
    for number, page in enumerate(pages):
        # kept for whoever reads a failure
        page.screenshot(path=build / f"{request.node.name}-{number}-last.png")
        page.close()
    assert not pages or loopback.asked, "no request was seen, so nothing was checked"
    assert not loopback.strays()
