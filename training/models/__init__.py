"""Networks by name: `create("lpn50", joints=17)`.

Every module of this package registers its networks; state-dict keys equal those of the published code.
"""

from training.models import higherhrnet, higherlpn, hourglass, hrnet, lpn, mobilepose, okdhp, simplebaseline
from training.models.registry import create, names

__all__ = [
    "create",
    "higherhrnet",
    "higherlpn",
    "hourglass",
    "hrnet",
    "lpn",
    "mobilepose",
    "names",
    "okdhp",
    "simplebaseline",
]
