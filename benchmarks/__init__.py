# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Commands that measure this project, and the data that they wrote."""
