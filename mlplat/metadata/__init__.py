"""The metadata store: runs, registered models, aliases and the ledger of decisions. Its implementations are modules
of their own, so that importing the port loads neither MLflow nor SQLAlchemy."""

from __future__ import annotations

from mlplat.metadata.port import Alias, Goal, LedgerEntry, Metadata, ModelVersion

__all__ = ["Alias", "Goal", "LedgerEntry", "Metadata", "ModelVersion"]
