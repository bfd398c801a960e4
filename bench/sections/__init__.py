"""The sections of the report: each module has `run(settings)`, which returns a Section."""
