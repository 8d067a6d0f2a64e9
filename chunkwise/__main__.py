"""`python -m chunkwise`, for launchers that start a module: torchrun --nproc-per-node 2 -m
chunkwise train ...
"""

import sys

from chunkwise.cli.main import main

sys.exit(main())
