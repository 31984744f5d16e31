"""A selection policy of one's own: requests that change something have a worker to themselves.

Ships have bulkheads, so that water that comes in at one place does not fill all of them. Here slot 0 takes what writes
(POST, PUT, ...), and the others take what reads: a slow upload never keeps a reader waiting. When a lane is full, the
other one helps out, since a request is better served anywhere than not at all.

    cgilab set search selection=/the/way/to/writes_apart.py

or in a manifest `"selection": "policies/writes_apart.py"`, relative to it. Edit and save this file while the lab runs:
it is loaded anew. A mistake is told in an event with its line, and requests go on by round robin meanwhile.

`endpoints` are those that can take a request now, two or more, by slot. Each has
    .slot       its place in the pool; a successor has the same one
    .in_flight  requests open to it now
    .chosen     number of the choice that fell on it last; the smallest waits longest, 0 is never
    .weight     its share, from the setting `weights`
    .ewma       seconds that its answers took lately; 0.0 before the first
`request` has .method, .path, .client (the address), .header(name) and .cookie(name); the last two may give None.
A request that found no place waits in the queue, and goes to whoever is free first: nobody is asked then.
Be quick: every request of the lab waits while `choose` thinks. What takes more than a millisecond is told, and what has
not returned after a second is stopped, as far as it can be: a `time.sleep` of your own cannot.
"""

READS = ("GET", "HEAD", "OPTIONS")


class Policy:
    """The lab makes one of these for each app that names the file."""

    def choose(self, endpoints, request):
        """One of `endpoints`."""
        reads = request.method in READS
        lane = [one for one in endpoints if (one.slot > 0) == reads]
        return min(lane or endpoints, key=lambda one: (one.in_flight, one.chosen))
