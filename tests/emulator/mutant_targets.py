"""Every file that mutants are made of."""

from __future__ import annotations

from mutant_launches_conv import CONV
from mutant_launches_others import OTHERS

TARGETS = (*OTHERS, *CONV)
