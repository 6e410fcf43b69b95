"""`python -m tdxlab` is the command line."""

import sys

from tdxlab.cli import main

sys.exit(main())
