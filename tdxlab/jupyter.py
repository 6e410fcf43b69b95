"""JupyterLab on the notebooks: loopback only, behind a token, and asking nobody for news."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

from tdxlab.data import folder

QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
"""Else a pop-up that asks about news covers the first notebook."""


def serve(port: int | None, args: list[str]) -> int:
    """Run JupyterLab until it is stopped; return its exit code.

    Without a port Jupyter takes the first free one from 8888 on.  A port that was asked for is taken or refused.
    `args` are Jupyter's own.  Raises ValueError with a sentence where it cannot start.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ImportError:
        raise ValueError("JupyterLab is not installed; run: pip install 'tdxlab[lab]'") from None
    if port is not None:
        _refuse_taken(port)
    with tempfile.TemporaryDirectory(prefix="tdxlab-") as settings:
        _settings_in(Path(settings))
        try:
            LabApp.launch_instance(argv=arguments(port, args))
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def arguments(port: int | None, args: list[str]) -> list[str]:
    """What JupyterLab is called with; `args` come last."""
    ours = [
        f"--ServerApp.root_dir={folder('notebooks').resolve()}",
        "--ServerApp.ip=127.0.0.1",
        # the other manager asks a registry for extensions as soon as its panel is opened
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # looking for language servers calls npm where it finds one
        "--LanguageServerManager.autodetect=False",
    ]
    if port is not None:
        ours += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    # Jupyter will not run as root unless told to
    if os.name == "posix" and os.getuid() == 0:
        ours.append("--allow-root")
    return ours + args


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        # as Jupyter does, so that a port just given back counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise ValueError(f"PORT is at most 65535, not {port}") from None
        except OSError as wrong:
            raise ValueError(f"port {port} cannot be used ({wrong.strerror}); choose another with PORT=") from None


def _settings_in(place: Path) -> None:
    """Defaults of ours, which the reader's own settings override, in front of Jupyter's search path."""
    (place / "labconfig").mkdir()
    (place / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(QUIET))
    others = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = f"{place}{os.pathsep}{others}" if others else str(place)
