"""The nodes, one a file: subscribe, call a model, publish.

One thread each is what these models want; more threads only take cores from the other nodes. The
libraries read these variables when they are first imported, so they are set here, before any is.
"""

import os

for _variable in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
