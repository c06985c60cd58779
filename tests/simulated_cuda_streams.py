"""The functions of a simulated CUDA that have to do with streams, events and graphs."""

from __future__ import annotations

from typing import Any

from simulated_cuda_parts import Event, Op, Stream


class SimulatedStreams:
    """Part of `SimulatedCuda`, which runs the work and has the handles and the violations."""

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return 0, self._handle(Stream(getattr(self._thread, "device", 0)))

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        found = self.get(stream, Stream)
        if found.queue or found.captured is not None:
            raise self.broken("destroyed a stream with work in it")
        del self.handles[stream]
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        found = self.get(stream, Stream)
        if found.captured is not None:
            found.is_invalid = True
            return (900,)
        self._work(found, None)
        return (0,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return 0, self._handle(Event(flags))

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        found = self.get(event, Event)
        if found.stream is not None and found.marker in found.stream.queue:
            raise self.broken("destroyed an event that nobody waited for")
        del self.handles[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        found, queue = self.get(event, Event), self.get(stream, Stream)
        if queue.captured is not None:
            raise self.broken("recorded an event in a capture: it would keep no time")

        def stamp() -> None:
            found.time = self.clock

        found.stream, found.time, found.marker = queue, None, Op("event", stamp)
        queue.queue.append(found.marker)
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        if self._is_capturing():
            return (900,)
        found = self.get(event, Event)
        if found.stream is None or found.marker is None:
            raise self.broken("waited for an event that was never recorded")
        if found.marker in found.stream.queue:
            self._work(found.stream, found.marker)
        return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        first, last = self.get(start, Event), self.get(end, Event)
        if first.stream is None or last.stream is None:
            return 400, 0.0
        if first.time is None or last.time is None:
            return 600, 0.0
        return 0, (last.time - first.time) / 1e6

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[int]:
        found = self.get(stream, Stream)
        if mode != 1:
            raise self.broken("captures what other threads do as well")
        if found.captured is not None:
            raise self.broken("captures already")
        found.captured, found.is_invalid = [], False
        self._thread.capturing = found
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        found = self.get(stream, Stream)
        if found.captured is None:
            raise self.broken("ended a capture that never began")
        captured, found.captured = found.captured, None
        self._thread.capturing = None
        return (901, 0) if found.is_invalid else (0, self._handle(("graph", captured)))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        kind, captured = self.get(graph, tuple)
        if kind != "graph" or not captured:
            raise self.broken("made an empty graph ready")
        return 0, self._handle(("exec", captured))

    def cudaGraphLaunch(self, graph_exec: int, stream: int) -> tuple[int]:
        kind, captured = self.get(graph_exec, tuple)
        if kind != "exec":
            raise self.broken("launched a graph that is not ready")
        for build in captured:
            self.submit(stream, build)
        return (0,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self._drop(graph, "graph")

    def cudaGraphExecDestroy(self, graph_exec: int) -> tuple[int]:
        return self._drop(graph_exec, "exec")
