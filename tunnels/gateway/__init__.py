"""The gateway: it terminates the clients' WebSockets and listens for in-cluster connections."""
