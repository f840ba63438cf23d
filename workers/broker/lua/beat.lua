-- Record a worker's heartbeat, and advance the tick counter at intervals.
-- KEYS: workers, ticks, messages held by the worker. ARGV: worker, minimum milliseconds between two ticks, ticks that a
--   worker may be behind.
-- Returns the number of messages it holds; then, if the tick was advanced, each silent worker and its last tick.
-- Leases are measured in ticks, not in wall time: a server that is down or paused makes none, and expires no lease.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tick = tonumber(redis.call('HGET', KEYS[2], 'tick') or 0)
local at = tonumber(redis.call('HGET', KEYS[2], 'at') or 0)
local ticked = now < at or now - at >= tonumber(ARGV[2])
if ticked then
  tick = tick + 1
  redis.call('HSET', KEYS[2], 'tick', tick, 'at', now)
end
redis.call('HSET', KEYS[1], ARGV[1], tick)

local answer = {redis.call('HLEN', KEYS[3])}
if ticked then
  local beats = redis.call('HGETALL', KEYS[1])
  for i = 1, #beats, 2 do
    if tick - beats[i + 1] > tonumber(ARGV[3]) then
      answer[#answer + 1] = beats[i]
      answer[#answer + 1] = beats[i + 1]
    end
  end
end
return answer
