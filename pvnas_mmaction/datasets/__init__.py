# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The video data set that checks what it is given, and the hook that reports."""

from .pvnas_video_dataset import PVNASVideoDataset
from .skipped_clips_hook import SkippedClipsHook

__all__ = ["PVNASVideoDataset", "SkippedClipsHook"]
