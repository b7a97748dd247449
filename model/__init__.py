"""The detector: network, memory and gates, defect map, and the files that hold them."""

import os

# Read by OpenMP when torch is loaded, so it is set before any module here loads it. By default its
# threads spin for milliseconds while they wait for each other, and beside a busy neighbour they
# spin in each other's way (docs/measurements.md). A short spin costs nothing alone.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
