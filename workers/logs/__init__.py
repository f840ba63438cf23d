"""The logs of the fleet's processes: as text or JSON, each line with the prediction that it belongs to."""
