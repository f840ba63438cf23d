-- needs: lease_functions
-- Keeps an answer, ends its owner's lease and tells those who wait.
-- KEYS: answer, lease. ARGV: owner, answer, seconds that it is kept, channel, what is told.
-- An owner that lost its lease has an answer all the same. Run twice it does the same again.

redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
release_lease(KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
