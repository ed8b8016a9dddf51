# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Modules that :mod:`pvnas_mmaction.compat` supplies where none is installed."""
