"""What surrounds each LM call of a prediction: cancellation, response cache, rate limits, retries and fallbacks."""
