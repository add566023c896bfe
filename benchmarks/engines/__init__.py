"""Pipelines of optimum on ONNX Runtime and OpenVINO: exports makes them, measure runs them.

``nox -s optimum`` runs it once an engine, in an environment of its own, and then writes docs/engines.md.
"""
