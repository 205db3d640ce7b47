"""A step recorded once and replayed: what `gpucnn.capture` is made of.

trace.py    the recorder: runs a step eagerly and keeps its primitive calls
node.py     a recorded call, and the piece of memory that an argument is
fusion.py patterns.py    rewriting: the table of patterns and what makes one safe
memory.py   a plan of the memory that the calls need, packed by their lifetimes
step.py     the captured step: which recording fits a call, what a replay does
"""

from gpucnn.recorded.step import CapturedStep, capture

__all__ = ["CapturedStep", "capture"]
