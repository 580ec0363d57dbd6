"""Settings of the whole suite: one torch thread each, so that two test processes do not fight over two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
