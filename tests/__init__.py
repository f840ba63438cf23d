"""The tests, mirrored on the tree that they test. A package, so that no installed `tests` can stand in its way."""
