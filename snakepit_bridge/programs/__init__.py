"""Programs: DSPy modules with a name and a version, kept as data and rebuilt where they run."""
