"""What LM calls use and cost: exact amounts, hourly sums in Redis, and the report that is made of them."""
