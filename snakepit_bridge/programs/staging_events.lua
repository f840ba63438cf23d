-- Returns what has happened to a label's rollouts or experiments, oldest first.
--
-- KEYS[1]  stream of either
-- ARGV     the position to begin at, '-' for the first and '(<position>' for what follows it; how many
return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
