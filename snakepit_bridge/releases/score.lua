-- Stores a score of a prediction, and counts the difference to the score that it replaces for the prediction's arms.
--
-- KEYS[1]  the prediction's result, whose time to live the scores share
-- KEYS[2]  the hash of its scores
-- KEYS[3]  the key that exists as long as the prediction is recorded, which keeps the scores longer than the result
-- KEYS[4…] the arms' hashes of counts
-- ARGV[1]  the score's field: its name and scorer
-- ARGV[2]  its name
-- ARGV[3]  how it is counted: `m:MILLIONTHS` or `l:LABEL`
-- ARGV[4]  the score as JSON
-- ARGV[5]  the most scores of a prediction
-- ARGV[6]  the most fields of a hash of counts, beyond which a score isn't counted in a new one
-- ARGV[7]  the same for labels
-- ARGV[8]  the time to live of counts in seconds
--
-- A stored score is how it was counted, a line feed, and its JSON. Returns 'stored', 'unknown' where there is no result,
-- or 'full'. Running it again changes nothing.
local left = redis.call('PTTL', KEYS[1])
if left == -2 then
  return 'unknown'
end
if left ~= -1 then
  left = math.max(left, redis.call('PTTL', KEYS[3]))
end
local stored = redis.call('HGET', KEYS[2], ARGV[1])
if not stored and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  return 'full'
end

local prefix, counted = 's:' .. ARGV[2], ARGV[3]
local before = stored and string.match(stored, '^([^\n]*)\n') or ''

-- Returns the field that tells how often a score was given in such a form.
local function count_field(form)
  return prefix .. (string.sub(form, 1, 1) == 'm' and ':n' or ':' .. form)
end

local function fits(key)
  local most = tonumber(string.sub(counted, 1, 1) == 'm' and ARGV[6] or ARGV[7])
  return redis.call('HLEN', key) < most or redis.call('HEXISTS', key, count_field(counted)) == 1
end

local function add(key, form, sign)
  if form ~= '' then
    redis.call('HINCRBY', key, count_field(form), sign)
    if string.sub(form, 1, 1) == 'm' then
      redis.call('HINCRBY', key, prefix .. ':m', sign * tonumber(string.sub(form, 3)))
    end
  end
end

if before ~= counted then
  for index = 4, #KEYS do
    if not fits(KEYS[index]) then
      counted = ''
      break
    end
  end
  for index = 4, #KEYS do
    add(KEYS[index], before, -1)
    add(KEYS[index], counted, 1)
    if redis.call('TTL', KEYS[index]) == -1 then
      redis.call('EXPIRE', KEYS[index], ARGV[8])
    end
  end
end
redis.call('HSET', KEYS[2], ARGV[1], counted .. '\n' .. ARGV[4])
if left == -1 then
  redis.call('PERSIST', KEYS[2])
else
  redis.call('PEXPIRE', KEYS[2], math.max(left, 1))
end
return 'stored'
