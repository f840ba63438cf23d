-- Library: the time, in milliseconds of the server's clock, which all processes share.

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end
