"""Runs a script with every warning as an error: strict.py SCRIPT"""

from __future__ import annotations

import runpy
import sys
import warnings

warnings.simplefilter("error")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
