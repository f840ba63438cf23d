"""The operations on variables, predictions and programs, which both servers offer."""
