-- needs: claim_take, lanes
-- Admit a task's first call, or park the task.
-- ARGV: task, permit, profile, session, tokens, money, lease in ms, priority, deadline in ms (0: none), base of the
-- broker's claims, tag of the task's claim ('': it waits in its process), channel of the scheduler, channel of the
-- process, then the buckets.
-- Returns {1, tokens, money} if it is admitted; {0, 's' or 'p' for the limit, wait in ms} if it was parked; {-1} if
-- another worker holds its message by now. A second run charges nothing more, and returns {-1} for a parked task.

local task, id, profile, session = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local costs = {1, tonumber(ARGV[5]), tonumber(ARGV[6])}
local lease, now = tonumber(ARGV[7]), clock()

-- Turn the reservation into a permit that this process renews, unless the profile has been paused or changed since.
local function take_reservation()
  local mine = 'r:' .. task
  local record = permit(mine)
  if not record then
    return nil
  end
  no_longer_reserved(record[2])
  if record[2] ~= profile or paused_for(profile, now) > 0 then
    finish(mine, record, NOTHING)
    return nil
  end
  record[1] = GRANTED
  redis.call('HDEL', key('permits'), mine)
  redis.call('ZREM', key('leases'), mine)
  redis.call('HSET', key('permits'), id, cmsgpack.pack(record))
  redis.call('ZADD', key('leases'), now + lease, id)
  remember()
  return record
end

local taken = permit(id) or take_reservation()
if taken then
  return {1, number(taken[3]), number(taken[4])}
end

local buckets = buckets_at(14)
local whose, wait = obstacle(profile, buckets, costs, now)
if whose and lapse(now) > 0 then
  whose, wait = obstacle(profile, buckets, costs, now)
end
if not whose and others_wait_in_place(profile, now) then
  whose, wait = 'p', 20
end
if whose == 'p' then
  contend(profile)
elseif not whose and (is_contended(profile) or redis.call('EXISTS', lane_of(profile, session)) == 1) then
  whose, wait = 'p', 1
end
if not whose then
  grant(id, GRANTED, profile, buckets, costs, now, lease)
  return {1, number(costs[2]), number(costs[3])}
end
local list, message = '', ARGV[13]
if ARGV[11] ~= '' then
  list, message = claim_take(ARGV[10], ARGV[11])
  if not list then
    return {-1}
  end
else
  attend(task, now)
end
if park(task, session, profile, tonumber(ARGV[8]), tonumber(ARGV[9]), costs, list, message, now) == 1 then
  redis.call('PUBLISH', ARGV[12], profile)
end
return {0, whose, number(wait)}
