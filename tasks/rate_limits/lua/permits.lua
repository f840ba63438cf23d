-- needs: buckets
-- Library: permits. A permit records what a call was charged, until the call is settled or the lease expires because
-- the process that renewed it has died.

local KEPT_MS = 3600000
local RESERVED, GRANTED = 'r', 'g'

-- Return the milliseconds left of a pause that the profile's provider asked for.
local function paused_for(profile, now)
  return math.max(0, (tonumber(redis.call('HGET', key('pauses'), profile) or nil) or 0) - now)
end

-- Return which limit delays a call ('s' for session, 'p' for profile) and for how many milliseconds; nil for none.
-- The session's limit is checked first, so that it doesn't delay other sessions of the profile.
local function obstacle(profile, buckets, costs, now)
  local wait = {s = 0, p = 0}
  for _, bucket in ipairs(buckets) do
    read(bucket, now)
    wait[bucket.whose] = math.max(wait[bucket.whose], wait_for(bucket, costs[bucket.counts], now))
  end
  wait.p = math.max(wait.p, paused_for(profile, now))
  for _, whose in ipairs({'s', 'p'}) do
    if wait[whose] > 0 then
      return whose, wait[whose]
    end
  end
end

local function reserved_of(profile)
  return 'reserved:' .. profile
end

-- Keys shared by all permits live as long as any permit does.
local function remember()
  for _, name in ipairs({'permits', 'leases', 'under_way', 'in_force'}) do
    redis.call('PEXPIRE', key(name), KEPT_MS)
  end
end

-- Charge an admitted call and record it under a permit. The profile's limits are recorded for those who watch them.
local function grant(id, state, profile, buckets, costs, now, lease)
  local charges, in_force = {}, {}
  for i, bucket in ipairs(buckets) do
    local cost = costs[bucket.counts]
    charges[i] = {bucket.name, bucket.counts, cost, bucket.window, charge(bucket, cost, now)}
    if bucket.whose == 'p' then
      in_force[#in_force + 1] = bucket.name
      in_force[#in_force + 1] = table.concat({number(bucket.limit), bucket.window, number(now)}, ' ')
    end
  end
  if #in_force > 0 then
    redis.call('HSET', key('in_force'), unpack(in_force))
  end
  if state == RESERVED then
    redis.call('HINCRBY', key('under_way'), reserved_of(profile), 1)
  end
  redis.call('HSET', key('permits'), id, cmsgpack.pack({state, profile, costs[2], costs[3], charges}))
  redis.call('ZADD', key('leases'), now + lease, id)
  remember()
end

local function permit(id)
  local record = redis.call('HGET', key('permits'), id)
  return record and cmsgpack.unpack(record)
end

local function no_longer_reserved(profile)
  redis.call('HINCRBY', key('under_way'), reserved_of(profile), -1)
end

-- End a permit. `real` has the actual costs by index; others stay as charged.
-- Returns whether there was one, and whether it counted calls in flight.
local function finish(id, record, real)
  redis.call('HDEL', key('permits'), id)
  redis.call('ZREM', key('leases'), id)
  local place_freed = false
  for _, one in ipairs(record[5]) do
    local name, counts, cost, window, slice = unpack(one)
    if window == 0 then
      redis.call('HINCRBY', key('under_way'), name, -cost)
      place_freed = true
    elseif real[counts] then
      correct(name, window, slice, real[counts] - cost)
    end
  end
  return place_freed
end

local NOTHING = {0, 0, 0}

-- Release a task's reservation if it is still unused.
local function give_reservation_back(task)
  local id = 'r:' .. task
  local record = permit(id)
  if record then
    no_longer_reserved(record[2])
    finish(id, record, NOTHING)
  end
end

-- Release the permits of processes that have died. An unused reservation is refunded completely; a call that had begun
-- may have been counted by the provider, so only its place among the calls in flight is freed.
local function lapse(now)
  local lapsed = redis.call('ZRANGE', key('leases'), '-inf', number(now), 'BYSCORE', 'LIMIT', 0, 50)
  for _, id in ipairs(lapsed) do
    local record = permit(id)
    if not record then
      redis.call('ZREM', key('leases'), id)
    elseif record[1] == RESERVED then
      no_longer_reserved(record[2])
      finish(id, record, NOTHING)
    else
      finish(id, record, {})
    end
  end
  return #lapsed
end
