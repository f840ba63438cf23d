-- needs: permits
-- Library: the sessions' queues of waiting tasks, under the keys `lane:`. A task that must wait is parked there with
-- its message, held by no worker. A task whose message can't be parked is queued too, with the channel that notifies
-- its process, which has to renew it. A queue is ordered by priority, then by arrival. Nothing here expires, because
-- these are messages.

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

-- New tasks join the end of the queue while tasks wait for the profile's limit; otherwise these would starve.
local function is_contended(profile)
  return redis.call('EXISTS', key('contended:' .. profile)) == 1
end

local function contend(profile)
  redis.call('SET', key('contended:' .. profile), '1', 'PX', CONTENDED_MS)
end

-- Calls of tasks that hold a worker slot go first.
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

-- Return whether a task waits in a process that has died.
local function is_deserted(task, now)
  if not waits_in_process(redis.call('HGET', key('messages'), task)) then
    return false
  end
  return (tonumber(redis.call('ZSCORE', key('attending'), task) or nil) or 0) < now
end

-- Queue a task in its session. For a task that waits in its process, `list` is '' and `message` the process's channel.
-- A second copy of a parked message is dropped. Returns 1 if no task of the session was waiting before.
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
    -- Clocks differ: a deadline that has passed by the client's clock must not make a task bounce between the queues.
    redis.call('ZADD', key('deadlines'), number(math.max(deadline, now + SOONEST_MS)), task)
  end
  redis.call('HINCRBY', key('waiting'), profile, 1)
  return redis.call('ZADD', sessions_of(profile), 'NX', number(now), session)
end

-- Remove a task from its session's queue. Returns its message's list ('' if it waits in a process) and the message.
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

-- Return a parked task's message to the head of its list, or notify the process that the task waits in.
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
