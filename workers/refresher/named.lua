-- Notes that a process is at work under a refresher's name. KEYS: the name's sorted set of processes by the server's
-- milliseconds. ARGV: the process, milliseconds after which one that doesn't come again is forgotten.
-- Answers the other processes of the name, those that have ended lately included: at its first call each process finds
-- those that came before it, and of two that begin together just one finds the other.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
local others = redis.call('ZRANGE', KEYS[1], 0, -1)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return others
