"""The video data set that checks what it is given, and its reader."""

from .load_video import PVNASVideoDecode, PVNASVideoInit  # noqa: F401
from .pvnas_video_dataset import PVNASVideoDataset  # noqa: F401
from .video_frames import VideoFrames  # noqa: F401
