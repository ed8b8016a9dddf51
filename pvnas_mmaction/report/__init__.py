"""Reports of searches and trainings: reading work directories, page and figures."""
