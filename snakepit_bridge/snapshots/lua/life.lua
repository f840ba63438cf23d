-- Library: retention of a session and its history.

-- Returns the maximum number of revisions, their age in microseconds, the session's TTL in milliseconds; 0 for no
-- limit.
local function retention(head)
  local kept = head.retention ~= '' and head.retention or head.usual
  local revisions, age_us, ttl_ms = string.match(kept, '(%d+) (%d+) (%d+)')
  return tonumber(revisions or 0), tonumber(age_us or 0), tonumber(ttl_ms or 0)
end

-- A revision's age counts from the publish of the next one. The last change is always kept, since it describes the
-- current state.
local function trim(head)
  local revisions, age_us = retention(head)
  if revisions > 0 then
    redis.call('XTRIM', HISTORY, 'MAXLEN', revisions)
  end
  local horizon = now_us() - age_us
  while age_us > 0 and redis.call('XLEN', HISTORY) > 1 do
    local revision, fields = read_entry(redis.call('XRANGE', HISTORY, '-', '+', 'COUNT', 1)[1])
    if tonumber(fields.at) >= horizon then
      return
    end
    redis.call('XDEL', HISTORY, text(revision) .. '-0')
  end
end

local function each_key(command, ...)
  for _, key in ipairs({HEAD, VARIABLES, HISTORY, LABELS, LABELLED, CHECKS, ROLLOUTS, EXPERIMENTS}) do
    redis.call(command, key, ...)
  end
end

-- Renews the session's TTL.
local function live(head)
  local _, _, ttl_ms = retention(head)
  if not published(head) then
    ttl_ms = UNPUBLISHED_MS
  end
  if ttl_ms > 0 then
    each_key('PEXPIRE', text(ttl_ms))
    redis.call('SET', FLOOR, text(head.epoch), 'PX', text(ttl_ms + FLOOR_MS))
  elseif redis.call('PTTL', HEAD) > 0 then
    each_key('PERSIST')
  end
end

-- Sets the session's remaining TTL on a key that was added to it.
local function live_as_before()
  local left = redis.call('PTTL', HEAD)
  if left > 0 then
    each_key('PEXPIRE', left)
  end
end
