"""Train and export the demo image model of otcache-diffusers, on a CPU, from registry data alone.

    python tools/train_demo_image.py --work-dir DIR --cache-dir DIR --out FOLDER --sheet sheet.png

Two trainings run one after the other, each for a time of its own (`--vae-minutes`,
`--transformer-minutes`) with a cosine schedule over that time. Both write checkpoints to
`--work-dir` and resume from them when the script is started again. `FluxPipeline.from_pretrained` reads the
folder written to `--out`.
"""

from __future__ import annotations

from demo_models.image_model import ImageModel
from demo_models.script import main

if __name__ == "__main__":
    main(ImageModel(), __doc__.split("\n\n")[0])
