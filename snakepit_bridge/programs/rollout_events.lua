-- Returns what has happened to a label's rollouts, oldest first.
--
-- KEYS[1]  stream of the label's rollouts
-- ARGV     the position to begin at, '-' for the first and '(<position>' for what follows it; how many
return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
