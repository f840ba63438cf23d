-- Register a process of a refresher's name and return the other processes of that name, including recently ended ones.
-- On its first call each process finds those that registered before it; of two that start together, exactly one finds
-- the other.
-- KEYS: the name's sorted set of processes, scored by the server's time in milliseconds.
-- ARGV: the process, milliseconds after which a process that hasn't registered again is removed.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
local others = redis.call('ZRANGE', KEYS[1], 0, -1)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return others
