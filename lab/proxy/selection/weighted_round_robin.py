"""Weighted round robin: everyone in turn, the strong ones more often, and never many times in a row.

Weights of 5, 1 and 1 could be served as aaaaabc, which hits `a` with five requests at once. nginx's smooth way
(ngx_http_upstream_get_round_robin_peer, 2012) gives aabacaa: each endpoint saves up its weight in every round, who has
most is chosen and pays what all have got. It is as blind to load as plain round robin: it believes the weights. It
looks at every endpoint for each choice, as nginx does: 2 us among 10, 90 to 100 among 1,000 (tests/bench/selection.py,
on a busy machine). random_choice.py heeds the same weights in 1, by lot.
"""

from collections.abc import Sequence

from lab.proxy.selection import C, Request


class WeightedRoundRobin:
    """In every stretch of choices each endpoint has its share of them, spread out evenly."""

    def __init__(self) -> None:
        self._saved: dict[int, float] = {}
        """By slot: a successor goes on where its predecessor was, so nothing has to be cleared away."""

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        saved, total, most = self._saved, 0.0, -1.0
        best = endpoints[0]
        for one in endpoints:
            has = saved[one.slot] = saved.get(one.slot, 0.0) + one.weight
            total += one.weight
            if has > most or (has == most and one.chosen < best.chosen):
                best, most = one, has
        saved[best.slot] -= total
        return best
