# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Reports of searches and trainings: reading work directories, page and figures."""
