-- Count what waits, without a cost that grows with it.
-- ARGV: the fleet's prefix of delivery keys, then the lists of waiting messages.
-- Returns how many messages workers hold, how many are delayed and how many are dead; how many leases expired ever; then
--   for each list its length, and the time at which the message that is served next was sent ('' if it doesn't say).
-- Keys are arguments, so that reading them takes no right to write them. It runs on one server, as a broker does.

local base = ARGV[1]
local held = 0
for _, worker in ipairs(redis.call('HKEYS', base .. ':workers')) do
  held = held + redis.call('HLEN', base .. ':held:' .. worker)
end
local answer = {
  held, redis.call('ZCARD', base .. ':delayed'), redis.call('ZCARD', base .. ':dead'),
  tonumber(redis.call('HGET', base .. ':ticks', 'expired') or 0),
}
for i = 2, #ARGV do
  local message = redis.call('LINDEX', ARGV[i], -1)
  answer[#answer + 1] = redis.call('LLEN', ARGV[i])
  -- The body is base64, in which this can't occur.
  answer[#answer + 1] = message and string.match(message, '"sent_at":%s*([%d.]+)') or ''
end
return answer
