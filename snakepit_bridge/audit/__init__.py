"""Who changed what on a fleet: its audit trail, the rules that protect targets, and requests that wait for approval."""
