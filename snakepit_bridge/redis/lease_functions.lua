-- Library: leases, locks that expire. A lease is a key that holds the name of its owner.

-- Acquires or renews a lease and returns whether the owner holds it now. A lease of one of the owners in the set
-- replaceable, if it is given, is taken over.
local function hold_lease(lease, owner, lease_ms, replaceable)
  local holder = redis.call('GET', lease)
  if holder and holder ~= owner and not (replaceable and replaceable[holder]) then
    return false
  end
  redis.call('SET', lease, owner, 'PX', lease_ms)
  return true
end

-- Releases a lease and returns whether the owner held it.
local function release_lease(lease, owner)
  if redis.call('GET', lease) ~= owner then
    return false
  end
  redis.call('DEL', lease)
  return true
end
