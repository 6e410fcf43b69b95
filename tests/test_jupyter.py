"""What JupyterLab is started with.  That it then answers is seen by the browser tests."""

import os
import socket

import pytest

pytest.importorskip("jupyterlab")

from tdxlab.jupyter import arguments, serve


def test_it_listens_on_the_loopback_and_the_readers_arguments_come_last() -> None:
    given = arguments(None, ["--no-browser"])
    assert "--ServerApp.ip=127.0.0.1" in given
    assert given[-1] == "--no-browser"
    assert not any("port" in argument for argument in given)


def test_a_port_that_was_asked_for_is_not_changed_for_another() -> None:
    assert {"--ServerApp.port=8123", "--ServerApp.port_retries=0"} <= set(arguments(8123, []))


@pytest.mark.parametrize("user, allowed", [(0, True), (1000, False)])
def test_only_root_is_allowed_to_be_root(monkeypatch: pytest.MonkeyPatch, user: int, allowed: bool) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    assert ("--allow-root" in arguments(None, [])) == allowed


def test_a_taken_port_is_refused_with_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"port \d+ cannot be used .*PORT="):
            serve(taken.getsockname()[1], [])


def test_a_port_beyond_the_last_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        serve(65536, [])
