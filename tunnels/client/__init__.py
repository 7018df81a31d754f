"""The client: the process at the customer, the only side that dials."""
