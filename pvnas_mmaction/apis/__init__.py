# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the tools call: configs, launchers, errors, ranking, export."""
