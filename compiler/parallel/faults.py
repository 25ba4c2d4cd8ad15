"""Why a plan is refused."""

from __future__ import annotations

from mlc.frozen import frozen


@frozen
class Fault:
    """An error code, and a sentence that names rank, action and peer."""

    code: str
    message: str
