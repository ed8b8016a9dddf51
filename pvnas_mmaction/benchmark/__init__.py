# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a network costs next to those of MMAction2's model zoo, measured here.

``tools/benchmark.py`` is the way in. Nothing else of the package needs this part, and
importing ``pvnas_mmaction`` does not load it.
"""
