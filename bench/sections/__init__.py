"""The parts of the picture: each module has `run(settings)`, which gives a Section."""
