-- Count what waits, without a cost that grows with it.
-- ARGV: the fleet's prefix of delivery keys, the hashes of predictions parked for a rate limit and for a batch of LM
--   calls, then the lists of waiting messages.
-- Returns how many messages workers hold, how many are delayed and how many are dead; how many leases expired ever; how
--   many are parked; then for each list its length, how many of its messages workers hold, and the time at which the
--   message that is served next was sent ('' if it doesn't say).
-- Keys are arguments, so that reading them takes no right to write them. It runs on one server, as a broker does.

local base = ARGV[1]
local held, held_of = 0, {}
for _, worker in ipairs(redis.call('HKEYS', base .. ':workers')) do
  local key = base .. ':held:' .. worker
  local count = redis.call('HLEN', key)
  held = held + count
  -- One message stands for all that a worker holds, since most workers consume one queue.
  local record = redis.call('HRANDFIELD', key, 1, 'WITHVALUES')[2]
  local cut = record and string.find(record, '\n', 1, true)
  if cut then
    local list = string.sub(record, 1, cut - 1)
    held_of[list] = (held_of[list] or 0) + count
  end
end
local answer = {
  held, redis.call('ZCARD', base .. ':delayed'), redis.call('ZCARD', base .. ':dead'),
  tonumber(redis.call('HGET', base .. ':ticks', 'expired') or 0),
  redis.call('HLEN', ARGV[2]) + redis.call('HLEN', ARGV[3]),
}
for i = 4, #ARGV do
  local message = redis.call('LINDEX', ARGV[i], -1)
  answer[#answer + 1] = redis.call('LLEN', ARGV[i])
  answer[#answer + 1] = held_of[ARGV[i]] or 0
  -- The body is base64, in which this can't occur.
  answer[#answer + 1] = message and string.match(message, '"sent_at":%s*([%d.]+)') or ''
end
return answer
