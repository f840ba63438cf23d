"""The response cache of programs that want one: answers in Redis, and one provider call for all who ask the same."""
