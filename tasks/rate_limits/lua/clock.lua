-- Library: the time of the server's clock, which all processes share, in milliseconds. Read once per script, because
-- the clock is frozen during a script on Valkey but not on Redis 7.0.

local clock_ms
local function clock()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + time[2] / 1000
  end
  return clock_ms
end
