"""Who may call what a home serves: the tokens of endpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from mlplat.errors import unknown
from mlplat.feedback import Feedback
from mlplat.serve import state, tokens
from mlplat.serve.tokens import Token


class Callers(Feedback):
    """A part of `Platform`, which has the stores."""

    @abstractmethod
    def _model_names(self) -> Sequence[str]: ...

    def create_token(self, name: str, *, expires: str | None = None) -> str:
        """A new token for the callers of an endpoint, valid beside its others. It is shown this once: only its hash is kept.

        From the first on, the endpoint asks for one, within a second. `expires` is a duration such as "90d" (None: never).
        `NotFound` for a name that is neither served nor the name of a model.
        """
        if name not in state.read(self.home) and name not in (names := self._model_names()):
            raise unknown("model", name, names)
        return tokens.create(self.home, name, now_us=self._clock.now_us(), expires=expires)

    def revoke_token(self, name: str, token: str) -> None:
        """Let a token of an endpoint open nothing any more, from the next second on. `token` is its id or itself."""
        tokens.revoke(self.home, name, token)

    def tokens(self, name: str) -> list[Token]:
        """The tokens of an endpoint's callers, oldest first, expired ones too. They cannot be shown again."""
        return list(tokens.read(self.home).get(name, ()))
