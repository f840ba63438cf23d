-- needs: parked
-- Form a batch of the requests of a profile that have waited longest.
-- ARGV: owner of the collector's lease, batch, its record, profile, most requests, most bytes.
-- Returns {-1} if the lease is lost, else the number of requests in the batch: 0 for none, and no batch.
-- Idempotent: a batch that exists stays as it is.

if redis.call('GET', key('lease')) ~= ARGV[1] then
  return -1
end
local members = key('members:' .. ARGV[2])
if redis.call('EXISTS', members) == 1 then
  return redis.call('SCARD', members)
end
local waiting, count, bytes = key('waiting:' .. ARGV[4]), 0, 0
for _, id in ipairs(redis.call('ZRANGE', waiting, 0, ARGV[5] - 1)) do
  local size = redis.call('HSTRLEN', key('requests'), id) + 200
  if count > 0 and bytes + size > tonumber(ARGV[6]) then
    break
  end
  redis.call('SADD', members, id)
  redis.call('ZREM', waiting, id)
  count, bytes = count + 1, bytes + size
end
if redis.call('EXISTS', waiting) == 0 then
  redis.call('SREM', key('profiles'), ARGV[4])
end
if count > 0 then
  redis.call('HSET', key('batches'), ARGV[2], ARGV[3])
end
return count
