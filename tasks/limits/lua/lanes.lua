-- needs: permits
-- Library: lanes. A task that must wait stands in the lane of its session, and its message with it; no worker holds it.
-- Within a lane the priority decides, then who came first. Nothing here expires: these are messages.

local CONTENDED_MS = 2000
local LATEST = 1e15

local function lane_of(profile, session)
  return key('lane:' .. #profile .. ':' .. profile .. ':' .. session)
end

local function sessions_of(profile)
  return key('sessions:' .. profile)
end

-- Whoever comes new must queue behind those that a profile's limit holds up, else they would never get their turn.
local function is_contended(profile)
  return redis.call('EXISTS', key('contended:' .. profile)) == 1
end

local function contend(profile)
  redis.call('SET', key('contended:' .. profile), '1', 'PX', CONTENDED_MS)
end

-- Calls of tasks that hold a slot already come before tasks that don't.
local function others_wait_in_place(profile, now)
  local waiting = key('in_place:' .. profile)
  redis.call('ZREMRANGEBYSCORE', waiting, '-inf', number(now))
  return redis.call('ZCARD', waiting) > 0
end

-- Answers how many wait for the profile then. A copy of a message that is parked already adds nothing, and goes.
local function park(task, session, profile, priority, deadline, costs, list, message, now)
  if redis.call('HEXISTS', key('messages'), task) == 1 then
    return 0
  end
  redis.call('HSET', key('messages'), task, list .. '\n' .. message)
  redis.call('HSET', key('parked'), task, cmsgpack.pack({profile, session, costs[2], costs[3]}))
  redis.call('ZADD', lane_of(profile, session), number(priority * 1e13 + now), task)
  redis.call('ZADD', sessions_of(profile), 'NX', number(now), session)
  if deadline > 0 and deadline < LATEST then
    redis.call('ZADD', key('deadlines'), number(deadline), task)
  end
  return redis.call('HINCRBY', key('waiting'), profile, 1)
end

-- Puts a parked task's message back at the head of the list that it was claimed from.
local function unpark(task, profile, session)
  local record = redis.call('HGET', key('messages'), task)
  redis.call('HDEL', key('messages'), task)
  redis.call('HDEL', key('parked'), task)
  redis.call('ZREM', key('deadlines'), task)
  local lane = lane_of(profile, session)
  redis.call('ZREM', lane, task)
  if redis.call('EXISTS', lane) == 0 then
    redis.call('ZREM', sessions_of(profile), session)
  end
  if redis.call('HINCRBY', key('waiting'), profile, -1) <= 0 then
    redis.call('HDEL', key('waiting'), profile)
    redis.call('DEL', key('contended:' .. profile))
  end
  local cut = string.find(record, '\n', 1, true)
  redis.call('RPUSH', string.sub(record, 1, cut - 1), string.sub(record, cut + 1))
end

local function parked(task)
  local record = redis.call('HGET', key('parked'), task)
  if record then
    return unpack(cmsgpack.unpack(record))
  end
end
