"""Which machines a page talks to."""

from typing import Any
from urllib.parse import urlsplit


class Loopback:
    """Every address that the followed pages ask for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def follow(self, page: Any) -> None:
        """From now on, write down what `page` (Playwright's) asks for."""
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))

    def strays(self) -> list[str]:
        """The addresses that name another machine."""
        return [url for url in self.asked if urlsplit(url).hostname not in (None, "127.0.0.1")]
