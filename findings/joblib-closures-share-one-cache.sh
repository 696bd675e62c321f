#!/usr/bin/env bash
# joblib 1.6.0 and diskcache 5.6.3 (PyPI): functions made by one factory share their cached results, so that layer 11 gets the features of layer 2.
#
# Expected by most: "def extractor(layer)" with a cached function inside gives each layer a cache of its own, as the functions differ; or, at worst,
#       a cache that is not used.
# Seen: Memory.cache knows a function by module, name and source text, and diskcache's memoize() by module and name; the values that a function
#       closes over are in neither. The second extractor answers with the results of the first, at once, in the next process too, and there
#       is no warning. Where the layer is an argument of the cached function, it counts (a functools.partial of that is fine).
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "joblib==1.6.0" "diskcache==5.6.3" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import functools
import sys
import warnings
from importlib.metadata import version

import diskcache
import joblib
import numpy as np

warnings.simplefilter("error")
print(f"joblib {joblib.__version__}, diskcache {version('diskcache')}")
memory, disk = joblib.Memory("memory", verbose=0), diskcache.Cache("disk")
images = np.ones(3)


def extractor(layer, cached):
    """Features of one layer; here the images times its number."""

    @cached
    def features(x):
        return x * layer

    return features


def features_of(x, layer):
    return x * layer


def tell(how, second, eleventh):
    found = float(second(images)[0]), float(eleventh(images)[0])
    print(f"{how}: layer 2 gives {found[0]}, layer 11 gives {found[1]}")
    return found


def both(cached):
    return extractor(2, cached), extractor(11, cached)


plain = tell("no cache", *both(lambda function: function))
by_joblib = tell("joblib", *both(memory.cache))
again = tell("joblib, in the other order", *reversed(both(joblib.Memory("memory", verbose=0).cache)))
by_diskcache = tell("diskcache", *both(disk.memoize()))
argument = memory.cache(features_of)
as_argument = tell("joblib, as an argument", functools.partial(argument, layer=2), functools.partial(argument, layer=11))
sys.exit(not (plain == as_argument == (2, 11) and by_joblib == again == by_diskcache == (2, 2)))
PYTHON
venv/bin/python look.py
