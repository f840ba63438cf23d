-- Says that a worker is alive, and from time to time that it is time to look for those that aren't.
-- KEYS: workers, ticks, held of the worker. ARGV: worker, milliseconds that are at least between two ticks, how many
--   ticks a worker may be behind.
-- Answers: how many messages it holds; then, if this beat made a tick, each silent worker and the tick of its last beat.
-- Time that nobody measures doesn't count: while the server is away or stands still there are no ticks.

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
