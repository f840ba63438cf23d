"""The fleet's Celery tasks: thin functions around the coroutine that makes one prediction."""
