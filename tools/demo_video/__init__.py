"""Parts of tools/train_demo_video.py: the demo clip model of otcache-video."""
