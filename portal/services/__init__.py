"""Every write.

A service takes keyword arguments, runs in one transaction, records its event and, once that is committed, tells the
gateways which tunnels changed. What is wrong with its arguments comes as a ``ValidationError`` keyed by field.
"""
