"""Language models: profiles, the engine that calls providers, and what it knows of models and failures."""
