"""The detector: network, memory and gates, defect map, and the files that hold them."""

import os

# Read by OpenMP when torch is loaded, so it is set before any module here loads it. By default its
# threads spin while they wait for each other: with one busy neighbour on two cores a frame of
# 256x256 then took 1000 ms instead of 75 (docs/measurements.md).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
