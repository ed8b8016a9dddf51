"""Supernet and derived network; importing this package registers both."""

from .inherit import InheritFrom
from .pvnas_net import PVNASNet
from .supernet import PVNASSupernet
from .time_reversal import TimeReversalBlending

__all__ = ["InheritFrom", "PVNASNet", "PVNASSupernet", "TimeReversalBlending"]
