-- Removes names from an index of sessions, unless they were added since they were read.
-- KEYS: the index. ARGV: the time before which a name must have been added, then names.

for i = 2, #ARGV do
  local since = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if since and tonumber(since) < tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return {'pruned'}
