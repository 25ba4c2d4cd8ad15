"""Pipelines and replicas: schedules as data, what they cost, whether they are right, and how a chain is cut into stages."""
