"""Keras networks, as a user writes them. Import it where Keras runs on torch."""

from __future__ import annotations

import keras

from mlplat.model.shape import Shape

LAYERS = keras.layers


def embedded(shape: Shape, *, width: int = 16, seed: int | None = 5) -> keras.Model:
    """Embeddings, batch normalisation, noise of torch's generator and of Keras's own."""
    numeric, codes = keras.Input((shape.numbers,)), keras.Input((len(shape.slots),), dtype="int64")
    columns = [LAYERS.Embedding(slots, 3)(codes[:, i]) for i, slots in enumerate(shape.slots)]
    x = LAYERS.Dense(width, activation="relu")(LAYERS.Concatenate()([numeric, *columns]))
    x = LAYERS.Dropout(0.1, seed=seed)(LAYERS.BatchNormalization()(x))
    x = LAYERS.GaussianNoise(0.05)(LAYERS.Dropout(0.1)(x))
    return keras.Model([numeric, codes], LAYERS.Dense(shape.outputs)(x))


def plain(shape: Shape) -> keras.Model:
    """Numbers alone; its weights are made when it first answers."""
    return keras.Sequential([LAYERS.Dense(8, activation="relu"), LAYERS.Dense(shape.outputs)])


class Squared(LAYERS.Layer):
    """A layer that Keras could not make again by its name."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.square(x)


class Subclassed(keras.Model):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = [LAYERS.Embedding(slots, 3) for slots in shape.slots]
        self.body, self.square, self.head = LAYERS.Dense(8), Squared(), LAYERS.Dense(shape.outputs)

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        numeric, codes = inputs
        columns = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.head(self.square(self.body(keras.ops.concatenate([numeric, *columns], axis=1))))
