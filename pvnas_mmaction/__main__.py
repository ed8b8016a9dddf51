"""``python -m pvnas_mmaction VERB ...`` is the console command ``pvnas``."""

from .apis.commands import main

if __name__ == "__main__":
    main()
