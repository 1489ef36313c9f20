"""What can go wrong before the first run."""


class NoCluster(RuntimeError):
    """Ray is not installed, or no cluster answers at the address."""
