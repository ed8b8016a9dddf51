# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Data: block specs, genotypes, search spaces, costs. Needs no torch."""
