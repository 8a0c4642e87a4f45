"""No prior: nothing is aligned."""


class NoPrior:
    """Stands where a config names none."""
