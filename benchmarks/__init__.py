"""Commands that measure this project, and the data that they wrote."""
