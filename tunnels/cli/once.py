"""Options that are given once, unless they are lists."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand
from typer.exceptions import TyperException


class OnceCommand(TyperCommand):
    """A command that refuses an option which is given twice, where the last one would win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(given).items():
            if count > 1 and not getattr(option, "multiple", False) and not option.is_eager:
                error = TyperException(f"{option.opts[0]} is given {count} times: remove all but one")
                error.exit_code = 2
                raise error
        return super().parse_args(ctx, args)
