"""Executors spread request groups over workers. An executor computes; the runner alone writes the store."""
