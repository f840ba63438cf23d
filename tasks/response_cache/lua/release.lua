-- needs: lease_functions
-- End an owner's lease without an answer, so that one of the waiting processes asks instead.
-- KEYS: lease. ARGV: owner, channel, notification.
-- Idempotent: by a second run the lease is free or another's.

if not release_lease(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
