-- Library: the time, in milliseconds of the server's clock, which all processes share. It is read once per script:
-- Valkey's clock stands still while a script runs, Redis 7.0's goes on.

local clock_ms
local function clock()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + time[2] / 1000
  end
  return clock_ms
end
