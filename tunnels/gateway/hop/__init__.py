"""The hop: a connection that reaches a gateway without a session of its tunnel goes on to one that has it."""

from .accepting import HopListener
from .passage import Passage, Relay
from .wire import Answer, Request

__all__ = ["Answer", "HopListener", "Passage", "Relay", "Request"]
