"""What everything registered promises: a new proxy, space or algorithm is tested by being registered."""
