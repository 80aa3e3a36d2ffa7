"""A model as MLflow's "python function": what its file says of it, and what it calls. Imports no MLflow."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlplat.model.model import Model

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {"float64": "double", "int64": "long", "string": "string", "bool": "boolean", "timestamp": "datetime"}


class Pyfunc:
    """`predict` is what MLflow calls: a frame of the input columns in, a frame of the answer's fields out."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """As `Model.predict`. There are no params."""
        import pandas as pd

        inputs = frame[[field.name for field in self.model.signature.inputs() if field.name in frame.columns]]
        return pd.DataFrame(self.model.predict(pa.Table.from_pandas(inputs, preserve_index=False)))


def description(model: Model) -> dict[str, Any]:
    """What MLflow reads in the file `MLmodel`: how the folder is loaded, and the columns in its own words."""
    inputs, outputs = (
        json.dumps([{"type": _TYPES[f.dtype], "name": f.name, "required": f.required} for f in fields])
        for fields in (model.signature.inputs(), model.signature.outputs)
    )
    return {
        "flavors": {
            "python_function": {
                "loader_module": "mlplat.model",
                "data": ".",
                "env": {},
                "python_version": platform.python_version(),
            }
        },
        "signature": {"inputs": inputs, "outputs": outputs, "params": None},
    }
