"""Shared set-up: helpers beside the tests can be imported, and tiny models run on one thread."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch  # after the environment is set

torch.set_num_threads(1)
