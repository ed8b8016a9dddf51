# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What is measured on a machine: latencies of candidates and networks."""
