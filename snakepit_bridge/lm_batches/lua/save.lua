-- needs: parked
-- Store a batch's record. ARGV: owner of the collector's lease, batch, its record, seconds that an ended one is kept
--   ('' for one that hasn't ended).
-- Returns 1, or 0 if the lease is lost. Idempotent.

if redis.call('GET', key('lease')) ~= ARGV[1] then
  return 0
end
if ARGV[4] == '' then
  redis.call('HSET', key('batches'), ARGV[2], ARGV[3])
else
  redis.call('SET', key('ended:' .. ARGV[2]), ARGV[3], 'EX', ARGV[4])
  redis.call('LREM', key('recent'), 0, ARGV[2])
  redis.call('LPUSH', key('recent'), ARGV[2])
  redis.call('LTRIM', key('recent'), 0, 199)
  redis.call('EXPIRE', key('recent'), ARGV[4])
  redis.call('HDEL', key('batches'), ARGV[2])
  redis.call('DEL', key('members:' .. ARGV[2]))
end
return 1
