-- needs: redis/audit
-- Moves a dead letter back to the tail of its queue's list.
-- KEYS: a marker that this request was done, the dead-letter list, its entries, the queue's list. ARGV: the id, the
-- message, author; then those of redis/audit.
-- Returns 1 if it existed. Idempotent by the marker.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  return 0
end
-- The write that a full server rejects comes first, so that the message is never lost between the two places.
redis.call('LPUSH', KEYS[4], ARGV[2])
redis.call('SET', KEYS[1], '1', 'EX', 60)
record_change('dead.retry', ARGV[3], '', '', '')
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
