-- needs: permits
-- Library: lanes. A task that must wait stands in the lane of its session, and its message with it; no worker holds it.
-- A task whose message can't be parked stands there too, with the channel on which its process is told: that one must
-- show that it is still there. Within a lane the priority decides, then who came first. Nothing here expires: these are
-- messages.

local CONTENDED_MS = 2000
local ATTENDING_MS = 10000
local SOONEST_MS = 500
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

local function waits_in_process(record)
  return string.sub(record, 1, 1) == '\n'
end

local function attend(task, now)
  redis.call('ZADD', key('attending'), number(now + ATTENDING_MS), task)
  redis.call('PEXPIRE', key('attending'), KEPT_MS)
end

-- Whether a task waits in a process that is gone.
local function is_deserted(task, now)
  if not waits_in_process(redis.call('HGET', key('messages'), task)) then
    return false
  end
  return (tonumber(redis.call('ZSCORE', key('attending'), task) or nil) or 0) < now
end

-- Puts a task into its lane. `list` is '' for one that waits in its process, `message` the channel of that. A copy of a
-- message that is parked already adds nothing, and goes. Answers 1 if nobody of the session waited for it before.
local function park(task, session, profile, priority, deadline, costs, list, message, now)
  local before = redis.call('HGET', key('messages'), task)
  if not before or waits_in_process(before) then
    redis.call('HSET', key('messages'), task, list .. '\n' .. message)
  end
  if before then
    return 0
  end
  redis.call('HSET', key('parked'), task, cmsgpack.pack({profile, session, costs[2], costs[3]}))
  redis.call('ZADD', lane_of(profile, session), number((9 - priority) * 1e13 + now), task)
  if deadline > 0 and deadline < LATEST then
    -- Clocks differ: what a client's clock calls over already mustn't go back and forth all the time.
    redis.call('ZADD', key('deadlines'), number(math.max(deadline, now + SOONEST_MS)), task)
  end
  redis.call('HINCRBY', key('waiting'), profile, 1)
  return redis.call('ZADD', sessions_of(profile), 'NX', number(now), session)
end

-- Takes a task out of its lane. Answers the list that its message came from ('': it waits in a process), the message.
local function take_out(task, profile, session)
  local record = redis.call('HGET', key('messages'), task)
  redis.call('HDEL', key('messages'), task)
  redis.call('HDEL', key('parked'), task)
  redis.call('ZREM', key('deadlines'), task)
  redis.call('ZREM', key('attending'), task)
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
  return string.sub(record, 1, cut - 1), string.sub(record, cut + 1)
end

-- Puts a parked task's message back at the head of its list, or tells the process that the task waits in.
local function unpark(task, profile, session)
  local list, message = take_out(task, profile, session)
  if list == '' then
    redis.call('PUBLISH', message, task)
  else
    redis.call('RPUSH', list, message)
  end
end

local function parked(task)
  local record = redis.call('HGET', key('parked'), task)
  if record then
    return unpack(cmsgpack.unpack(record))
  end
end
