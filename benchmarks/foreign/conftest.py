"""What two libraries need to be imported here: torchvision's operators, and a configuration of the Hub."""

from __future__ import annotations

import torch
import transformers

# torchvision is installed without its compiled half, which wants the torch it was built with.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# imagen-pytorch reads the width of T5 from the Hub when it is imported.
_from_pretrained = transformers.T5Config.from_pretrained
transformers.T5Config.from_pretrained = lambda name: transformers.T5Config()
import imagen_pytorch  # noqa: E402, F401

transformers.T5Config.from_pretrained = _from_pretrained
