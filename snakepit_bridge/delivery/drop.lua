-- needs: redis/audit
-- Drops a dead letter.
-- KEYS: a marker that this request was done, the dead-letter list, its entries. ARGV: the id, what the audit calls it,
-- author; then those of redis/audit.
-- Returns 1 if it existed. Idempotent by the marker.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
if redis.call('HDEL', KEYS[3], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[1], '1', 'EX', 60)
record_change(ARGV[2], ARGV[3], '', '', '')
return 1
