"""Rewriting a recording: what makes a change safe, and the loop over the table of patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpucnn.recorded.node import Buffer, Node, Ref, touch


class Graph:
    """The calls of a step, with who writes and who reads each buffer.

    Attributes:
        nodes: the calls, in the order in which they run.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)
        self._index()

    def _index(self) -> None:
        self._place = {id(node): place for place, node in enumerate(self.nodes)}
        self._writers: dict[int, list[Node]] = {}
        self._readers: dict[int, list[Node]] = {}
        for node in self.nodes:
            for ref in node.reads():
                self._readers.setdefault(id(ref.buffer), []).append(node)
            for ref in node.writes():
                self._writers.setdefault(id(ref.buffer), []).append(node)

    def producer(self, value: Any) -> Node | None:
        """The one call that makes all of an array as it is seen here; None where that is not so.

        The array must be memory of the step's own that is written once, and read by its producer's
        shape and strides.
        """
        if not isinstance(value, Ref) or value.buffer is None:
            return None
        writers = self._writers.get(id(value.buffer), [])
        return writers[0] if len(writers) == 1 and value in writers[0].outputs else None

    def readers(self, value: Ref) -> list[Node]:
        """The calls that read the array's buffer, each once for every argument."""
        return self._readers.get(id(value.buffer), [])

    def only_reader(self, value: Any) -> Node | None:
        """The one call that reads an array that nobody outside the step can see."""
        if not isinstance(value, Ref) or value.buffer is None or value.buffer.held:
            return None
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value in readers[0].inputs else None

    def feeding(self, value: Any, *names: str) -> Node | None:
        """The producer of an array, if it is one of the primitives `names` and feeds one call."""
        node = self.producer(value)
        if node is None or node.name not in names or self.only_reader(value) is None:
            return None
        return node

    def merge(self, earlier: Node, later: Node, fused: Node, at: Node) -> bool:
        """Put `fused` in the place of two calls; False, and nothing done, where that is not safe.

        `at` is the one of the two in whose place it stands: what the other did moves there, past
        the calls between them.
        """
        first, last = self._place[id(earlier)], self._place[id(later)]
        moved = earlier if at is later else later
        reads, writes = list(moved.reads()), list(moved.writes())
        for node in self.nodes[first + 1 : last]:
            if any(touch(reads, ref) or touch(writes, ref) for ref in node.writes()):
                return False
            if any(touch(writes, ref) for ref in node.reads()):
                return False
        self.nodes[self._place[id(at)]] = fused
        del self.nodes[first if at is later else last]
        self._index()
        return True

    def replace(self, node: Node, new: Node) -> None:
        """Another call in the place of one."""
        self.nodes[self._place[id(node)]] = new
        self._index()

    def remove(self, *nodes: Node) -> None:
        """Leave calls out."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._index()

    def between(self, earlier: Node, later: Node) -> Sequence[Node]:
        """The calls after one and before another."""
        return self.nodes[self._place[id(earlier)] + 1 : self._place[id(later)]]

    def buffers(self) -> dict[Buffer, tuple[int, int]]:
        """The step's own memory that is used, with the places of the first and last use."""
        lifetimes: dict[Buffer, tuple[int, int]] = {}
        for place, node in enumerate(self.nodes):
            for ref in (*node.reads(), *node.writes()):
                if ref.buffer is not None:
                    lifetimes[ref.buffer] = (lifetimes.get(ref.buffer, (place,))[0], place)
        return lifetimes


Pattern = Callable[[Graph, Node], bool]


def changed(node: Node, name: str | None = None, **changes: Any) -> Node:
    """A copy of a call with other inputs, outputs or attributes."""
    return Node(
        name or node.name,
        changes.pop("inputs", list(node.inputs)),
        changes.pop("outputs", list(node.outputs)),
        {**node.attributes, **changes.pop("attributes", {})},
        changes.pop("mutated", node.mutated),
    )


def with_inputs(node: Node, new: Mapping[int, Any]) -> list[Any]:
    """The inputs of a call, those of some numbers replaced."""
    return [new.get(place, old) for place, old in enumerate(node.inputs)]


def rewrite(nodes: Sequence[Node], patterns: Sequence[Pattern]) -> list[Node]:
    """Apply each pattern of the table wherever it fits, until none does."""
    graph = Graph(nodes)
    if not patterns:
        return graph.nodes
    while any([_apply(graph, pattern) for pattern in patterns]):
        pass
    while _drop_unread(graph):
        pass
    return graph.nodes


def _drop_unread(graph: Graph) -> bool:
    """Leave out the calls whose results nobody reads."""
    unread = [
        node
        for node in graph.nodes
        if not any(ref.buffer is None or ref.buffer.held for ref in node.writes())
        and not any(graph.readers(ref) for ref in node.writes())
    ]
    graph.remove(*unread)
    return bool(unread)


def _apply(graph: Graph, pattern: Pattern) -> bool:
    found = False
    for node in list(graph.nodes):
        if id(node) in graph._place and pattern(graph, node):
            found = True
    return found
