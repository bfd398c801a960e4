"""The settings of a run, and the peers that sections had to drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from measure import Contender, Timings, round_robin
from models import Case
from peers import OURS, Bound, Peer, contenders
from roofline import LABEL, roofline

FASTOPT = Bound.name


@dataclass
class Settings:
    """`threads` are the numbers of threads measured, in order; `peers` those that could be loaded."""

    threads: Sequence[int]
    peers: Sequence[type[Peer]]
    quick: bool = False
    dropped: dict[str, str] = field(default_factory=dict)  # contenders with wrong steps, and how they differ

    @property
    def most(self) -> int:
        return self.threads[-1]

    @property
    def peer_names(self) -> list[str]:
        return [peer.name for peer in self.peers]

    def seconds(self, value: float) -> float:
        """How long to measure where a full run takes `value`."""
        return 0.02 * value if self.quick else value

    def rounds(self, least: int = 5) -> tuple[int, int]:
        return (1, 5) if self.quick else (least, 1000)

    def checked(self, case: Case, peers: Sequence[type[Peer]], what: str) -> list[Contender]:
        """Contenders on every number of threads; those with wrong steps are left out and named in the report."""
        made, dropped = contenders(case, peers, self.threads)
        self.dropped.update({f"{name}, {what}": why for name, why in dropped.items()})
        return made

    def race(self, case: Case, what: str, seconds: float, least: int = 5, extra: Sequence[Contender] = ()) -> Timings:
        """Times all contenders on one case: fastopt, the roofline, the peers and the `extra`."""
        made = [*(roofline(case, number) for number in self.threads), *extra]
        made += self.checked(case, [*OURS, *self.peers], what)
        return round_robin(made, self.seconds(seconds), self.rounds(least))


__all__ = ["FASTOPT", "LABEL", "Settings"]
