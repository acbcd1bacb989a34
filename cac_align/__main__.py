"""``python -m cac_align``: the same as ``cac-align``, for launchers such as ``accelerate launch -m cac_align``."""

import sys

from cac_align.cli import main

if __name__ == "__main__":
    sys.exit(main())
