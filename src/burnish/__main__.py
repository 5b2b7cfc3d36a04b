"""`python -m burnish` is `burnish`."""

import sys

from burnish.cli import main

sys.exit(main())
