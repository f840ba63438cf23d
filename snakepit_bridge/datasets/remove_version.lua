-- Removes a version of a dataset and its content. Its number isn't given again.
--
-- KEYS[1]  hash of the dataset, as add_version.lua describes it
-- KEYS[2]  hash of the version's content
-- ARGV     the version's number and digest
--
-- Returns 1 if it was removed, 0 if there was none.
if redis.call('HDEL', KEYS[1], 'version:' .. ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], 'digest:' .. ARGV[2])
redis.call('UNLINK', KEYS[2])
local newest = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  newest = math.max(newest, tonumber(string.match(field, '^version:(%d+)$') or 0))
end
if newest == 0 then
  redis.call('HDEL', KEYS[1], 'latest')
else
  redis.call('HSET', KEYS[1], 'latest', redis.call('HGET', KEYS[1], 'version:' .. newest))
end
return 1
