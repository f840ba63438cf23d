-- needs: lease_functions
-- Store an answer, end its owner's lease and notify the waiting processes.
-- KEYS: answer, lease. ARGV: owner, answer, seconds that it is kept, channel, notification.
-- The answer is stored even if the owner has lost its lease. Idempotent.

redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
release_lease(KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
