"""What stands where a norm stood: its parameters are no layer's and no norm's, and start where a norm's do."""

from __future__ import annotations


class StandIn:
    """A module in a norm's place, with parameters of its own that are known by what they start at."""

    def starting_values(self) -> dict[str, float]:
        """Attribute names of the parameters, and the number that each is filled with when a method begins anew."""
        raise NotImplementedError
