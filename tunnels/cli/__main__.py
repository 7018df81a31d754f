"""``python -m tunnels.cli``: the command where no script is installed."""

from .main import main

main()
