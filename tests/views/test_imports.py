"""What the command line needs of the views runs without numpy, pandas, matplotlib and Jupyter."""

import subprocess
import sys

HEAVY = ("numpy", "pandas", "matplotlib", "ipywidgets", "anywidget", "traitlets", "IPython")
PLAIN = ("palette", "shares", "rows", "spans", "text", "strips", "frames", "terminal", "film", "export")


def test_text_terminal_and_exports_need_the_standard_library_and_tabulate() -> None:
    code = f"""
import sys
sys.modules.update({{name: None for name in {HEAVY!r}}})
import importlib
for name in {PLAIN!r}:
    importlib.import_module("tdxlab.views." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
