"""`python -m vitral`."""

import os
import sys

# `python -m` puts the working folder first, where a data set may hold a json.py.
if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
    del sys.path[0]

from vitral.cli import main

sys.exit(main())
