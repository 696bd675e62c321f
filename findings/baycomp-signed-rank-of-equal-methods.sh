#!/usr/bin/env bash
# baycomp 1.0.3 (PyPI): of two methods with the same accuracy on every data set the first is better, with probability 0.77.
#
# Expected by most: two_on_multiple(x, x) gives each method one half, as two_on_single(x, x) does, or all to "practically equal", as it does once rope
#       is above 0. The order of the two arguments makes no difference.
# Seen (rope 0, the default): 0.77 against 0.23 with three data sets, 0.68 against 0.32 with thirty. Each sample of the posterior is exactly a
#       tie, up to the rounding of a sum of weights, and which side of one half that falls on is counted as a win of the one or the other. With
#       the arguments exchanged it is again the first. A single data set on which they differ settles it: 1 against 0 at three as at thirty.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "baycomp==1.0.3" "numpy==2.4.6" "scipy==1.17.1"
cat >look.py <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from baycomp import two_on_multiple, two_on_single

print(f"baycomp {version('baycomp')}")


def compared(test, x, y, **how):
    """Probabilities that x is better, that both are practically equal (with a rope only), and that y is better."""
    return tuple(round(float(value), 2) for value in test(x, y, **how))


held = True
for count in (3, 5, 30):
    one = np.linspace(0.6, 0.9, count)
    other = one.copy()
    first, _, second = equal = compared(two_on_multiple, one, other, random_state=0)
    rope = compared(two_on_multiple, one, other, rope=0.01, random_state=0)
    other[0] += 0.0001
    differ = compared(two_on_multiple, one, other, random_state=0)
    print(f"{count} data sets: equal {equal}, with rope=0.01 {rope}, second better on one of them by 0.0001 {differ}")
    held = held and abs(first - 0.5) > 0.05 and abs(first + second - 1) < 0.02 and rope == (0, 1, 0) and differ == (0, 0, 1)
single = compared(two_on_single, one, one)
print(f"two_on_single, equal: {single}")
sys.exit(not (held and single == (0.5, 0.5)))
PYTHON
venv/bin/python look.py
