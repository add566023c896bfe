"""What the tests of this package share."""

from __future__ import annotations

import os

# POT would import every array library that is installed; the solvers give it numpy.
os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
