"""The one table of cases: what every operation must do, on every device.

It drives the tests, the gradient check, the compilation of every kernel, and `gpucnn bench`.
"""

from gpucnn.cases.case import Case, Input, Outcome, run
from gpucnn.cases.table import CASES

__all__ = ["CASES", "Case", "Input", "Outcome", "run"]
