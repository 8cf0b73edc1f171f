"""The embedded reference model: generated questions, their frozen items, the trainer and the evaluator of its own checkpoints.

In: nothing but a seed. Out: a model folder that transformers loads, and `tasks/items/`. Nothing else in the package imports this room.
"""
