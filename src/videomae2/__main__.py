"""`python -m videomae2 COMMAND` is `videomae2 COMMAND`."""

import sys

from videomae2.cli.main import main

# Loader processes import this file again when they start: they must not run the command a second time.
if __name__ == "__main__":
    sys.exit(main())
