"""Supernet and derived network; importing this package registers both."""

from .inherit import InheritFrom  # noqa: F401
from .pvnas_net import PVNASNet  # noqa: F401
from .supernet import PVNASSupernet  # noqa: F401
from .time_reversal import TimeReversalBlending  # noqa: F401
