-- needs: lease_functions
-- Acquires, renews or releases a lease, or writes a record while it is held. Idempotent.
-- KEYS: the lease, and the record. ARGV: the owner, the operation, milliseconds of the lease, the bytes of the record and
-- its TTL in seconds (empty and 0 for none), and from the sixth on the further owners whose lease an acquisition takes
-- over.
-- Returns 1 if the owner holds, or held, the lease. A lost lease is acquired again by 'acquire' only, since another
-- owner may have held it meanwhile.

local owner, operation = ARGV[1], ARGV[2]
if operation == 'acquire' then
  local replaceable = {}
  for i = 6, #ARGV do
    replaceable[ARGV[i]] = true
  end
  return hold_lease(KEYS[1], owner, ARGV[3], replaceable) and 1 or 0
end
if operation == 'release' then
  return release_lease(KEYS[1], owner) and 1 or 0
end
if redis.call('GET', KEYS[1]) ~= owner then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if operation == 'write' then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
elseif operation == 'delete' then
  redis.call('DEL', KEYS[2])
end
return 1
