"""For a developer's machine: embedded servers, a stand-in LM and the demo."""
