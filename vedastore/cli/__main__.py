"""``python -m vedastore.cli``."""

import sys

from vedastore.cli import main

sys.exit(main())
