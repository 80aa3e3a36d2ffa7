"""What an endpoint asks besides its models."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """URLs: that of the online store, where it is a server, and that of the cache by which answers are shared. They may hold
    passwords: no log and no record shows them."""

    online: SecretStr | None = None
    shared_cache: SecretStr | None = None

    def unlike(self, others: Servers) -> str | None:
        """What is said of who asks these where those were meant."""
        if self.online != others.online:
            return "reads another online store"
        if self.shared_cache != others.shared_cache:
            return "shares its answers by another cache, or by none"
        return None
