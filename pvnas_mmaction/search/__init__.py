"""The algorithm of a search. It knows no runner, no hook and no loader."""
