"""``python -m influence.command`` is the command."""

import sys

from influence.command.main import main

if __name__ == "__main__":
    sys.exit(main())
