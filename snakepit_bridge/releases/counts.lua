-- Library: adds to the counts of arms.
--
-- ARGV[at]      how many hashes
-- ARGV[at + 1]  their TTL in seconds
-- Then for each hash: its index in KEYS, how many fields, and of each field its name and what to add.
--
-- add_counts returns the index behind these arguments. It never raises: a key of another type mustn't cost a prediction
-- its result.
local function add_counts(at)
  local hashes, ttl = tonumber(ARGV[at]), ARGV[at + 1]
  at = at + 2
  for _ = 1, hashes do
    local key, fields = KEYS[tonumber(ARGV[at])], tonumber(ARGV[at + 1])
    for field = 1, fields do
      redis.pcall('HINCRBY', key, ARGV[at + 2 * field], ARGV[at + 2 * field + 1])
    end
    redis.pcall('EXPIRE', key, ttl, 'NX')
    at = at + 2 + 2 * fields
  end
  return at
end
