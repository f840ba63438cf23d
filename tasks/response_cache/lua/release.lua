-- needs: lease_functions
-- Ends an owner's lease without an answer, so that one of those who wait asks in its stead.
-- KEYS: lease. ARGV: owner, channel, what is told.
-- Run twice it does nothing more: the lease is another's by then, or nobody's.

if not release_lease(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
