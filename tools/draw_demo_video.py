"""Draw the sheet of the shipped video model: every held-out and novel prompt, none picked.

python tools/draw_demo_video.py docs/demo-video-sheet.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from demo_models.video_model import VideoModel

from otcache_video import demo

if __name__ == "__main__":
    VideoModel().draw_sheet(demo.load(), Path(sys.argv[1]), ("heldout", "novel"))
