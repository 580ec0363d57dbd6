"""`python -m coreface` is the command `coreface`."""

import sys

from coreface.cli import main

sys.exit(main())
