"""What the modules that a scope needs have instead of `typing`, whose import takes as long as theirs.

A type checker takes `TYPE_CHECKING` for true, so it reads `typing` here and in `if TYPE_CHECKING:` elsewhere.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Any = Protocol = object

__all__ = ["TYPE_CHECKING", "Any", "Protocol"]
