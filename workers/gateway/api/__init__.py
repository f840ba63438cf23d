"""The operations behind both servers: variables, predictions and programs, with what they share."""
