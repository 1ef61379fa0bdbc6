"""When and where rounds run: Prefect flows, tasks and deployments.

What a stage does belongs in `loop.stages`; nothing is imported here, since Prefect takes seconds to load.
"""
