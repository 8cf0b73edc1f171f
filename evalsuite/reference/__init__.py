"""The embedded reference model: generated questions, frozen items, the trainer, an evaluator of its checkpoints.

In: nothing but a seed. Out: a model folder that transformers loads, and `tasks/items/`. Nothing else in the package
imports this room.
"""
