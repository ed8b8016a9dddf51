"""The video data set that checks what it is given, and its reader."""

from .load_video import PVNASVideoDecode, PVNASVideoInit
from .pvnas_video_dataset import PVNASVideoDataset
from .video_frames import VideoFrames

__all__ = [
    "PVNASVideoDataset",
    "PVNASVideoDecode",
    "PVNASVideoInit",
    "VideoFrames",
]
