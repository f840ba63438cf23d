-- Adds a version of a dataset, unless a version has this content already.
--
-- KEYS[1]  hash of the dataset: "last" is the highest number given so far, "latest" the entry of the newest version,
--          "version:<n>" the entry of a version, "digest:<digest>" its number. An entry is the number, the time in Unix
--          seconds, and the description, on a line each.
-- KEYS[2]  hash of the content: chunks by number
-- ARGV     digest, how many chunks, and the version's description as the opaque text that the client encoded
--
-- Returns the entry of the version that has the content, or false while the content isn't complete. Running it twice,
-- as a client does that lost the first reply, adds nothing the second time.
if redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[2]) then
  return false
end
local known = redis.call('HGET', KEYS[1], 'digest:' .. ARGV[1])
if known then
  return redis.call('HGET', KEYS[1], 'version:' .. known)
end
redis.call('PERSIST', KEYS[2])
local number = redis.call('HINCRBY', KEYS[1], 'last', 1)
local entry = string.format('%d\n%s\n%s', number, redis.call('TIME')[1], ARGV[3])
redis.call('HSET', KEYS[1], 'latest', entry, 'version:' .. number, entry, 'digest:' .. ARGV[1], number)
return entry
