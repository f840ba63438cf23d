-- Acquires, renews or releases a lease, or writes a record while it is held. Idempotent.
-- KEYS: the lease, and the record. ARGV: the owner, the operation, milliseconds of the lease; for a record its bytes
-- and its TTL in seconds.
-- Returns 1 if the owner holds, or held, the lease. A lost lease is acquired again by 'acquire' only, since another
-- owner may have held it meanwhile.

local holder = redis.call('GET', KEYS[1])
if not holder and ARGV[2] == 'acquire' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  return 1
end
if holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'release' then
  redis.call('DEL', KEYS[1])
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[2] == 'write' then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
elseif ARGV[2] == 'delete' then
  redis.call('DEL', KEYS[2])
end
return 1
