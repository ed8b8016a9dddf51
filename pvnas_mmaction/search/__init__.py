# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The algorithm of a search. It knows no runner, no hook and no loader."""
