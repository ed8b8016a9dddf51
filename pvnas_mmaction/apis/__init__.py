"""What the tools call: configs, launchers, errors, ranking, export."""
